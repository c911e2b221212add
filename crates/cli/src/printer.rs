//! The only owner of stdout and stderr. Results go to stdout; progress, notes and logs go to stderr.

use crate::exit::Unwritten;
use hemlock_report::words;
use hemlock_stage::{Bar, Progress, short};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::{
    borrow::Cow,
    io::{self, BufRead as _, IsTerminal, Write},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// Most characters of an error that is printed, whatever its causes quote.
const LONGEST: usize = 3000;

/// Time between two lines of progress, if stderr is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(15);

/// Prints the output of the command line.
#[derive(Clone)]
pub struct Printer {
    bars: MultiProgress,
    quiet: bool,
    terminal: bool,
}

impl Printer {
    /// Makes a printer. If it is quiet, it prints nothing to stderr except errors.
    pub fn new(quiet: bool) -> Self {
        Self { bars: MultiProgress::new(), quiet, terminal: io::stderr().is_terminal() }
    }

    /// Sends logs to stderr, above the progress bars. `RUST_LOG` overrides the level.
    pub fn install_log(&self, verbose: u8) {
        let level = match (self.quiet, verbose) {
            (true, _) => "error",
            (false, 0) => "warn",
            (false, 1) => "hemlock=info,warn",
            (false, _) => "hemlock=debug,info",
        };
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
        let ansi = self.terminal && std::env::var_os("NO_COLOR").is_none();
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_ansi(ansi);
        log.with_writer(self.clone()).init();
    }

    /// Prints a result to stdout. It is no error if the reader has gone (`| head`).
    pub fn result(&self, text: &str) -> anyhow::Result<()> {
        let written = self.bars.suspend(|| {
            let mut out = io::stdout().lock();
            writeln!(out, "{}", plain(text.trim_end())).and_then(|()| out.flush())
        });
        match written {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => Ok(other.map_err(Unwritten)?),
        }
    }

    /// Prints the parser's output: the help or the version to stdout, or an error to stderr.
    pub fn parsed(said: &clap::Error) -> anyhow::Result<()> {
        let printed = said.print().and_then(|()| io::stdout().flush());
        match printed {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe && !said.use_stderr() => Err(Unwritten(e).into()),
            _ => Ok(()),
        }
    }

    /// The width for results: the number in `COLUMNS`, or the width of the terminal that they are printed to. Returns
    /// `None` if neither exists.
    pub fn width(&self) -> Option<usize> {
        let out = io::stdout();
        let asked = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).filter(|n| *n > 0);
        let real = || terminal_size::terminal_size_of(&out).map(|(width, _)| usize::from(width.0));
        out.is_terminal().then(|| asked.or_else(real)).flatten()
    }

    /// Prints a note to stderr, unless the printer is quiet.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.stderr(text);
        }
    }

    /// Prints an error and its causes to stderr.
    pub fn error(&self, error: &anyhow::Error) {
        self.stderr(&short(&format!("error: {error:#}"), LONGEST));
    }

    /// Asks a question that is answered by yes or no. `None`: nobody is at a terminal to answer it.
    ///
    /// # Errors
    /// The answer cannot be read.
    pub fn confirm(&self, question: &str) -> io::Result<Option<bool>> {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Ok(None);
        }
        write!(io::stderr().lock(), "{}", plain(question))?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        Ok(Some(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")))
    }

    fn stderr(&self, text: &str) {
        self.bars.suspend(|| {
            // If stderr itself fails, there is nowhere to report it.
            let _ = writeln!(io::stderr().lock(), "{}", plain(text));
        });
    }
}

/// Removes control characters from a text, except line ends and tabs. The text may quote specs and files, which must
/// not be able to control the terminal.
fn plain(text: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(steers) {
        return text.into();
    }
    let shown = |c: char| if steers(c) { c.escape_unicode().to_string() } else { c.to_string() };
    text.chars().map(shown).collect::<String>().into()
}

impl Progress for Printer {
    fn start(&self, label: &str, total: u64, unit: &'static str) -> Box<dyn Bar> {
        if self.quiet {
            return Box::new(hemlock_stage::Silent);
        }
        if !self.terminal {
            let last = Mutex::new((Instant::now(), String::new()));
            return Box::new(Lines { label: label.to_owned(), total, unit, start: Instant::now(), last });
        }
        let template = match total {
            0 => format!("  {label:<20} {{spinner}} {{pos}} {unit} in {{elapsed}}  {{msg}}"),
            _ => format!("  {label:<20} {{bar:30}} {{pos}} of {{len}} {unit}, {{per_sec}}, {{eta}} left  {{msg}}"),
        };
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = if total == 0 { ProgressBar::new_spinner() } else { ProgressBar::new(total) };
        let bar = self.bars.add(bar.with_style(style));
        Box::new(TerminalBar(bar))
    }
}

/// A progress bar on a terminal, which disappears when the work is done.
struct TerminalBar(ProgressBar);

impl Bar for TerminalBar {
    fn at(&self, done: u64) {
        self.0.set_position(done);
    }
    fn say(&self, message: String) {
        self.0.set_message(message);
    }
}

impl Drop for TerminalBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Describes progress in words. A `total` of 0 means that the total is not known.
fn progress(done: u64, total: u64, unit: &str, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    if total == 0 || done == 0 {
        return format!("{done} {unit} in {}", words::seconds(seconds));
    }
    let left = total.saturating_sub(done) as f64 * seconds / done as f64;
    let rate = done as f64 / seconds.max(f64::MIN_POSITIVE);
    format!("{done} of {total} {unit}, {rate:.1}/s, {} left", words::seconds(left))
}

/// Progress as plain lines from time to time, for a stderr that is not a terminal.
struct Lines {
    label: String,
    total: u64,
    unit: &'static str,
    start: Instant,
    last: Mutex<(Instant, String)>,
}

impl Bar for Lines {
    fn at(&self, done: u64) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0.elapsed() < LINE_EVERY {
            return;
        }
        last.0 = Instant::now();
        let said = progress(done, self.total, self.unit, self.start.elapsed());
        let said = if last.1.is_empty() { said } else { format!("{said}; {}", last.1) };
        let _ = writeln!(io::stderr().lock(), "  {}: {said}", self.label);
    }
    fn say(&self, message: String) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).1 = message;
    }
}

/// Writes logs above the progress bars.
pub struct LogWriter(Arc<Printer>);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.bars.suspend(|| io::stderr().lock().write_all(bytes))?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

impl<'a> MakeWriter<'a> for Printer {
    type Writer = LogWriter;
    fn make_writer(&'a self) -> LogWriter {
        LogWriter(Arc::new(self.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_what_is_left() {
        let after = |done, total| progress(done, total, "steps", Duration::from_secs(15));
        assert_eq!(after(30, 60), "30 of 60 steps, 2.0/s, 15 s left");
        assert_eq!((&*after(0, 60), &*after(7, 0)), ("0 steps in 15 s", "7 steps in 15 s"));
    }
}
