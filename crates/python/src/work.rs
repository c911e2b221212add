//! Work without the interpreter's lock: on threads of its own, while the calling thread waits, shows progress and
//! listens for Ctrl-C.

use crate::failure::Failed;
use crate::progress::Bars;
use hemlock_stage::{Cancel, Context, Environment, ErrorKind, NoCheckpoints};
use pyo3::exceptions::PyUserWarning;
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::ffi::CString;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock, Mutex, Once, PoisonError, mpsc};
use std::thread;
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, span};

/// How often the calling thread looks for signals and shows progress.
const LOOK: Duration = Duration::from_millis(50);

/// Bytes of the stack of a thread, as much as a process's first one has.
const STACK: usize = 8 << 20;

/// The device of work on features alone: the processor.
pub(crate) const PROCESSOR: &str = "flex";

/// One call from Python: what its work is given from outside.
pub(crate) struct Call {
    pub(crate) cancel: Cancel,
    pub(crate) bars: Bars,
    on_device: AtomicBool,
    scratch: PathBuf,
}

static ENVIRONMENT: Environment = Environment { data: None, commands: Vec::new() };

impl Call {
    /// The context of a stage's run.
    pub(crate) fn context<'a>(&'a self, seed: u64, device: &'a str) -> Context<'a> {
        Context {
            seed,
            device,
            env: &ENVIRONMENT,
            progress: &self.bars,
            cancel: &self.cancel,
            checkpoints: &NoCheckpoints,
            on_device: &self.on_device,
            scratch: &self.scratch,
        }
    }

    /// Whether the work should go on.
    pub(crate) fn goes_on(&self) -> bool {
        !self.cancel.requested()
    }

    /// An error if the work was asked to stop.
    pub(crate) fn check(&self) -> Result<(), Failed> {
        if self.goes_on() { Ok(()) } else { Err(Failed::Interrupted) }
    }
}

/// The threads of this process. A forked process has none of its parent's threads, and gets its own: the process's
/// number says whose they are. It is looked up under the interpreter's lock, which whoever forks holds, so that no fork
/// leaves it locked.
static POOL: Mutex<Option<(u32, Arc<ThreadPool>)>> = Mutex::new(None);

fn pool() -> Result<Arc<ThreadPool>, Failed> {
    let (mut known, process) = (POOL.lock().unwrap_or_else(PoisonError::into_inner), std::process::id());
    if let Some((of, pool)) = &*known
        && *of == process
    {
        return Ok(Arc::clone(pool));
    }
    let made = ThreadPoolBuilder::new().stack_size(STACK).build();
    let made = Arc::new(made.map_err(|e| Failed::internal(format!("no threads: {e}")))?);
    // Threads of a parent cannot be ended here, where they do not exist.
    std::mem::forget(known.replace((process, Arc::clone(&made))));
    Ok(made)
}

/// An error on a thread of Hemlock's: there, what waits for its other threads could wait forever.
fn not_within() -> Result<(), Failed> {
    if rayon::current_thread_index().is_none() {
        return Ok(());
    }
    let message = "the functions of an extractor call Hemlock; expected functions that compute features alone";
    Err(Failed::new(ErrorKind::Params, message))
}

/// Does work without the interpreter's lock. `show` is called with the progress of the work now and then. On Ctrl-C the
/// work is asked to stop, and the exception is raised when it has.
pub(crate) fn work<T: Send>(
    py: Python<'_>,
    show: Option<&Py<PyAny>>,
    work: impl FnOnce(&Call) -> Result<T, Failed> + Send,
) -> PyResult<T> {
    not_within()?;
    listen();
    let pool = pool()?;
    let call = Call {
        cancel: Cancel::default(),
        bars: Bars::default(),
        on_device: AtomicBool::new(false),
        scratch: std::env::temp_dir(),
    };
    let (ended, end) = mpsc::channel::<()>();
    let end = Mutex::new(end);
    let mut raised: Option<PyErr> = None;
    let done = thread::scope(|scope| {
        let call = &call;
        let worker = thread::Builder::new().spawn_scoped(scope, move || {
            let done = catch_unwind(AssertUnwindSafe(|| pool.install(|| work(call))));
            drop(ended);
            done
        });
        let worker = worker.map_err(|e| Failed::internal(format!("no thread: {e}")))?;
        loop {
            let wait = || end.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(LOOK);
            if py.detach(wait) == Err(mpsc::RecvTimeoutError::Disconnected) {
                break;
            }
            let looked = py.check_signals().and_then(|()| show.map_or(Ok(()), |show| call.bars.show(py, show)));
            if let (Err(e), None) = (looked, &raised) {
                call.cancel.request();
                raised = Some(e);
            }
        }
        py.detach(|| worker.join()).unwrap_or_else(Err).unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it said nothing");
            Err(Failed::internal(said))
        })
    });
    if let Some(show) = show.filter(|_| raised.is_none()) {
        call.bars.show(py, show)?;
    }
    warn(py)?;
    match raised {
        Some(e) => Err(e),
        None => Ok(done?),
    }
}

/// Warnings of Hemlock's that Python was not given yet.
static WARNINGS: LazyLock<Mutex<Vec<String>>> = LazyLock::new(Mutex::default);

/// Gives Python what was warned of.
fn warn(py: Python<'_>) -> PyResult<()> {
    let warnings = std::mem::take(&mut *WARNINGS.lock().unwrap_or_else(PoisonError::into_inner));
    for warning in warnings {
        let text = CString::new(warning.replace('\0', " "))?;
        PyErr::warn(py, &py.get_type::<PyUserWarning>(), &text, 2)?;
    }
    Ok(())
}

/// Collects warnings, and keeps panics silent, which become exceptions.
fn listen() {
    static LISTENS: Once = Once::new();
    LISTENS.call_once(|| {
        std::panic::set_hook(Box::new(|info| tracing::debug!("{info}")));
        // Where the command line runs, it listens itself.
        let _ = tracing::subscriber::set_global_default(Listener);
    });
}

/// Keeps the text of warnings, and nothing else.
struct Listener;

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, "{}{name} {value:?}", if self.fields.is_empty() { "" } else { ", " }),
        };
        debug_assert!(written.is_ok(), "a String takes any text");
    }
}

impl Subscriber for Listener {
    fn enabled(&self, about: &tracing::Metadata<'_>) -> bool {
        *about.level() <= Level::WARN && about.target().starts_with("hemlock")
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let Text { message, fields } = text;
        let whole = if fields.is_empty() { message } else { format!("{message} ({fields})") };
        WARNINGS.lock().unwrap_or_else(PoisonError::into_inner).push(whole);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}
