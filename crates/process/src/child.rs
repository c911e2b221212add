//! A running child: its pipes, each with a thread of its own so that nothing waits for longer than it may, and its end.

use crate::{
    Fault,
    frame::{FrameHeader, HEADER, Request},
    group,
};
use hemlock_stage::{Cancel, ChildCommand};
use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{self, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

/// How often a wait looks whether the run was interrupted.
const LOOK: Duration = Duration::from_millis(50);

/// How long a child may take to end once it was asked to, or has closed its stdout.
const END: Duration = Duration::from_secs(2);

/// Length of a payload that is accepted whatever is expected: for messages and descriptions.
pub(crate) const TEXT: u64 = 64 << 10;

/// Lines of stderr that are kept, and bytes of each.
const LINES: (usize, usize) = (12, 400);

/// A frame that a child wrote.
pub(crate) struct Frame {
    pub(crate) header: FrameHeader,
    pub(crate) payload: Vec<u8>,
}

/// A child that runs in a group of its own, which is killed when this is dropped.
pub(crate) struct Child {
    process: process::Child,
    /// Frames to be written. Dropping it closes the child's stdin.
    to: Option<Sender<Vec<u8>>>,
    from: Receiver<Result<Frame, Fault>>,
    /// Most bytes that the next payload may have.
    most: Arc<AtomicU64>,
    stderr: Arc<Mutex<VecDeque<String>>>,
    /// Is closed when the child's stderr is.
    silent: Receiver<()>,
}

impl Child {
    /// Starts a command in the folder `dir`.
    pub(crate) fn start(command: &ChildCommand, dir: &Path) -> Result<Self, Fault> {
        let Some((program, words)) = command.words.split_first() else {
            return Err(Fault::Start("the command has no words".to_owned()));
        };
        let dir = std::path::absolute(dir).map_err(|e| Fault::Start(e.to_string()))?;
        // A program that is given by a relative path is in `dir`, as all files of the command are.
        let program = if Path::new(program).components().count() > 1 { dir.join(program) } else { program.into() };
        let mut start = Command::new(program);
        start.args(words).current_dir(&dir);
        start.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = group::lead(&mut start).spawn().map_err(|e| Fault::Start(e.to_string()))?;
        group::started(process.id());
        let (to, frames) = mpsc::channel();
        let (told, from) = mpsc::channel();
        let (open, silent) = mpsc::channel::<()>();
        let (most, stderr) = (Arc::new(AtomicU64::new(TEXT)), Arc::<Mutex<VecDeque<String>>>::default());
        let (limit, kept) = (Arc::clone(&most), Arc::clone(&stderr));
        let pipes = (process.stdin.take(), process.stdout.take(), process.stderr.take());
        // From here on, an error kills the child.
        let child = Self { process, to: Some(to), from, most, stderr, silent };
        let (Some(stdin), Some(stdout), Some(errors)) = pipes else {
            return Err(Fault::Start("it has no pipes".to_owned()));
        };
        beside(move || write(stdin, &frames))?;
        beside(move || read(BufReader::new(stdout), &told, &limit))?;
        beside(move || {
            keep(BufReader::new(errors), &kept);
            drop(open);
        })?;
        Ok(child)
    }

    /// Hands a frame to the child. Whether it was read, shows in the answer.
    pub(crate) fn send(&self, frame: Vec<u8>) {
        if let Some(to) = &self.to {
            // If the thread has ended, then so has the child, and there is no answer.
            let _ = to.send(frame);
        }
    }

    /// Sends a request, and waits for the answer, whose payload has at most `most` bytes, or is a short text.
    pub(crate) fn ask(
        &mut self,
        request: Request,
        frame: Vec<u8>,
        most: u64,
        within: Duration,
        cancel: &Cancel,
    ) -> Result<Frame, Fault> {
        self.most.store(most.max(TEXT), Ordering::SeqCst);
        self.send(frame);
        let until = Instant::now() + within;
        loop {
            match self.from.recv_timeout(LOOK) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended(request)),
                Err(RecvTimeoutError::Timeout) if cancel.requested() => return Err(Fault::Interrupted),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= until => {
                    return Err(Fault::Hangs { request: request.name(), within });
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// The fault of a child that has closed its stdout.
    fn ended(&mut self, request: Request) -> Fault {
        let how = match self.wait(END) {
            Some(status) => format!("ended ({status})"),
            None => "closed its stdout".to_owned(),
        };
        Fault::Ended { request: request.name(), how }
    }

    fn wait(&mut self, within: Duration) -> Option<process::ExitStatus> {
        let until = Instant::now() + within;
        loop {
            match self.process.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < until => thread::sleep(Duration::from_millis(5)),
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Kills the child and all that it has started. Returns the last lines that it wrote to stderr.
    pub(crate) fn kill(mut self) -> String {
        self.end();
        // A process that left the group may hold stderr open.
        let _ = self.silent.recv_timeout(END);
        let lines = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// Asks the child to end, and kills what does not.
    pub(crate) fn shut_down(mut self, frame: Vec<u8>) {
        self.send(frame);
        self.to = None;
        self.wait(END);
    }

    fn end(&mut self) {
        self.to = None;
        group::kill(self.process.id());
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs `work` on a thread of its own.
fn beside(work: impl FnOnce() + Send + 'static) -> Result<(), Fault> {
    thread::Builder::new().spawn(work).map(drop).map_err(|e| Fault::Start(e.to_string()))
}

/// Writes frames until there are no more, or until the child no longer reads.
fn write(mut stdin: process::ChildStdin, frames: &Receiver<Vec<u8>>) {
    while let Ok(frame) = frames.recv() {
        if stdin.write_all(&frame).and_then(|()| stdin.flush()).is_err() {
            break;
        }
    }
}

/// Reads frames until the child's stdout ends, or has something else than a frame.
fn read(mut stdout: impl Read, told: &Sender<Result<Frame, Fault>>, most: &AtomicU64) {
    loop {
        let mut header = [0; HEADER];
        let filled = fill(&mut stdout, &mut header);
        let frame = match filled {
            0 => return,
            HEADER => FrameHeader::from_bytes(&header),
            // The child ended within a frame, or printed something short.
            some if header.starts_with(&crate::frame::MAGIC) && some > 4 => return,
            some => Err(Fault::printed(&header[..some])),
        };
        let frame = frame.map(|header| {
            // What is longer than allowed is not read: the header says enough.
            let length = if header.length <= most.load(Ordering::SeqCst) { header.length as usize } else { 0 };
            let mut payload = vec![0; length];
            let whole = fill(&mut stdout, &mut payload) == length;
            whole.then_some(Frame { header, payload })
        });
        let ends = frame
            .as_ref()
            .map_or(true, |frame| frame.as_ref().is_none_or(|f| f.header.length != f.payload.len() as u64));
        let Some(frame) = frame.transpose() else { return };
        if told.send(frame).is_err() || ends {
            return;
        }
    }
}

/// Reads as many bytes as there are, up to the length of `bytes`. Returns how many.
fn fill(from: &mut impl Read, bytes: &mut [u8]) -> usize {
    let mut filled = 0;
    while filled < bytes.len() {
        match from.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(some) => filled += some,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    filled
}

/// Keeps the last lines of stderr, and logs all of them.
fn keep(mut stderr: impl BufRead, lines: &Mutex<VecDeque<String>>) {
    let mut line = Vec::new();
    loop {
        line.clear();
        let (most, length) = LINES;
        // A line without an end is read in parts.
        match (&mut stderr).take(length as u64).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text: String = String::from_utf8_lossy(&line).chars().filter(|c| !c.is_control()).collect();
        tracing::debug!("stderr of the process: {text}");
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push_back(format!("  {text}"));
        if lines.len() > most {
            lines.pop_front();
        }
    }
}
