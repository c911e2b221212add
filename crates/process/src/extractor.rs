//! An extractor that is a child process.

use crate::{
    Fault, ProcessError,
    child::{Child, Frame},
    frame::{FAILED, FrameHeader, Request, framed, numbers},
};
use hemlock_stage::{Cancel, ChildCommand, VALUE, short};
use serde::{Deserialize, Serialize};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How often a child is restarted.
const RESTARTS: u32 = 1;

/// Most features that a child may say it has, and most pixels of a side of its images.
const MOST: (usize, usize) = (1 << 20, 1 << 14);

/// What a child says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Its name, which results show.
    pub name: String,
    /// Number of features, d.
    pub features: usize,
    /// Height and width of its images, in pixels.
    pub image_size: [usize; 2],
    /// Number of forward passes that it keeps at once.
    #[serde(default)]
    pub keep: usize,
}

/// A feature extractor that is a child process. The child runs until this is dropped.
pub struct ProcessExtractor {
    command: ChildCommand,
    /// The folder that the child runs in.
    dir: PathBuf,
    cancel: Cancel,
    about: Description,
    state: Mutex<State>,
    /// Kept passes that nobody wants any more. A pass is dropped wherever it is, so this has a lock of its own.
    unwanted: Arc<Mutex<Vec<PassNumber>>>,
}

impl std::fmt::Debug for ProcessExtractor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessExtractor").field("command", &self.command).field("about", &self.about).finish()
    }
}

/// The child, and what was asked of it.
#[derive(Default)]
struct State {
    child: Option<Child>,
    restarts: u32,
    /// Number of the last request.
    request: u64,
    /// Number of passes that the child keeps.
    kept: usize,
    /// The error because of which the child is not started any more.
    failed: Option<ProcessError>,
}

/// The number of a kept pass, and the number of restarts before it: a restarted child has forgotten it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PassNumber {
    restarts: u32,
    number: u64,
}

/// A forward pass that the child keeps, until [`ProcessExtractor::backward`] is called or this is dropped.
#[derive(Debug)]
pub struct KeptPass {
    pass: PassNumber,
    unwanted: Arc<Mutex<Vec<PassNumber>>>,
}

impl Drop for KeptPass {
    fn drop(&mut self) {
        self.unwanted.lock().unwrap_or_else(PoisonError::into_inner).push(self.pass);
    }
}

/// A request with its arrays, and the number of values that the answer has for each image.
struct Question<'a> {
    request: Request,
    pass: u64,
    images: usize,
    arrays: &'a [&'a [f32]],
    values: usize,
}

impl ProcessExtractor {
    /// Starts a command in the folder `dir`, and asks the child to describe itself. The child is ended when `cancel` is
    /// requested during a question.
    ///
    /// # Errors
    /// If the command cannot be started, or if the child does not describe an extractor.
    pub fn open(command: ChildCommand, dir: PathBuf, cancel: Cancel) -> Result<Self, ProcessError> {
        let about = Description { name: String::new(), features: 0, image_size: [0; 2], keep: 0 };
        let (state, unwanted) = (Mutex::default(), Arc::default());
        let mut made = Self { command, dir, cancel, about, state, unwanted };
        let mut about = None;
        made.attempt(|made, state| {
            about = Some(made.start(state)?);
            Ok(())
        })?;
        if let Some(about) = about {
            made.about = about;
        }
        Ok(made)
    }

    /// What the child says about itself.
    #[must_use]
    pub fn about(&self) -> &Description {
        &self.about
    }

    /// Features `[n, d]` of images `[n, 3, h, w]` in `[0, 1]`.
    ///
    /// # Errors
    /// If the child fails a second time.
    pub fn forward(&self, pixels: &[f32]) -> Result<Vec<f32>, ProcessError> {
        let images = self.images(pixels);
        let question =
            Question { request: Request::Forward, pass: 0, images, arrays: &[pixels], values: self.about.features };
        self.attempt(|made, state| made.ask(state, &question))
    }

    /// Features `[n, d]` of images, and the pass that the child keeps for [`ProcessExtractor::backward`]; `None` if it
    /// keeps as many as it can already.
    ///
    /// # Errors
    /// If the child fails a second time.
    pub fn forward_kept(&self, pixels: &[f32]) -> Result<(Vec<f32>, Option<KeptPass>), ProcessError> {
        let (images, values) = (self.images(pixels), self.about.features);
        self.attempt(|made, state| {
            made.release(state);
            // A number that no earlier pass has.
            let number = if state.kept < made.about.keep { state.request + 1 } else { 0 };
            let question = Question { request: Request::Forward, pass: number, images, arrays: &[pixels], values };
            let features = made.ask(state, &question)?;
            let pass = PassNumber { restarts: state.restarts, number };
            let kept = (number > 0).then(|| KeptPass { pass, unwanted: Arc::clone(&made.unwanted) });
            state.kept += usize::from(kept.is_some());
            Ok((features, kept))
        })
    }

    /// The vector-Jacobian product of a kept pass of the images `pixels`: given the gradient of a scalar with respect
    /// to the features, `[n, d]`, returns its gradient with respect to the pixels, `[n, 3, h, w]`.
    ///
    /// # Errors
    /// If the child fails a second time.
    #[allow(clippy::needless_pass_by_value)]
    pub fn backward(&self, kept: KeptPass, pixels: &[f32], grad_features: &[f32]) -> Result<Vec<f32>, ProcessError> {
        let (images, values) = (self.images(pixels), self.pixels_of_image());
        // The pass is dropped afterwards, and so counted as unwanted, which the child will be told: it ignores that.
        self.attempt(|made, state| {
            if state.restarts == kept.pass.restarts {
                let (request, pass) = (Request::Backward, kept.pass.number);
                made.ask(state, &Question { request, pass, images, arrays: &[grad_features], values })
            } else {
                made.ask(state, &vjp(images, &[pixels, grad_features], values))
            }
        })
    }

    /// As [`ProcessExtractor::backward`], of a forward pass that the child makes anew.
    ///
    /// # Errors
    /// If the child fails a second time.
    pub fn vjp(&self, pixels: &[f32], grad_features: &[f32]) -> Result<Vec<f32>, ProcessError> {
        let (images, values) = (self.images(pixels), self.pixels_of_image());
        self.attempt(|made, state| made.ask(state, &vjp(images, &[pixels, grad_features], values)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of pixels of an image, in all channels.
    fn pixels_of_image(&self) -> usize {
        let [height, width] = self.about.image_size;
        3 * height * width
    }

    fn images(&self, pixels: &[f32]) -> usize {
        pixels.len() / self.pixels_of_image().max(1)
    }

    /// Calls `work` with the child's state. If the child fails, it is killed and restarted, once.
    fn attempt<T>(&self, mut work: impl FnMut(&Self, &mut State) -> Result<T, Fault>) -> Result<T, ProcessError> {
        let mut state = self.state();
        loop {
            if let Some(failed) = &state.failed {
                return Err(failed.clone());
            }
            let fault = match work(self, &mut state) {
                Ok(done) => return Ok(done),
                Err(fault) => fault,
            };
            let stderr = state.child.take().map(Child::kill).unwrap_or_default();
            let command = short(&self.command.to_string(), VALUE).into_owned();
            let restarted = state.restarts > 0;
            let error = ProcessError { command, fault, restarted, stderr };
            if error.fault.lasts() || state.restarts >= RESTARTS {
                state.failed = Some(error.clone());
                return Err(error);
            }
            tracing::warn!("{error}\nit is restarted");
            state.restarts += 1;
            state.kept = 0;
        }
    }

    /// Starts the child, and asks it to describe itself.
    fn start(&self, state: &mut State) -> Result<Description, Fault> {
        let child = state.child.insert(Child::start(&self.command, &self.dir)?);
        state.request += 1;
        let header =
            FrameHeader { kind: Request::Describe as u16, request: state.request, pass: 0, images: 0, length: 0 };
        let answer = child.ask(Request::Describe, framed(header, &[]), 0, self.command.timeout, &self.cancel)?;
        let answer = checked(Request::Describe, header, answer)?;
        let text = String::from_utf8_lossy(&answer.payload).into_owned();
        let unusable = |reason: String| Fault::Description { text: short(&text, VALUE).into_owned(), reason };
        let about: Description = serde_json::from_str(&text).map_err(|e| unusable(e.to_string()))?;
        let ([height, width], (features, side)) = (about.image_size, MOST);
        if !(1..=features).contains(&about.features) || height != width || !(1..=side).contains(&height) {
            let expected = format!("expected 1 to {features} `features`, and an `image_size` of two equal sides");
            return Err(unusable(expected));
        }
        Ok(about)
    }

    /// Starts the child again, which has to be the same.
    fn restart(&self, state: &mut State) -> Result<(), Fault> {
        let about = self.start(state)?;
        if about == self.about {
            return Ok(());
        }
        let (text, reason) = (format!("{about:?}"), format!("before its restart, it was {:?}", self.about));
        Err(Fault::Description { text, reason })
    }

    /// Tells the child which passes nobody wants any more.
    fn release(&self, state: &mut State) {
        let unwanted = std::mem::take(&mut *self.unwanted.lock().unwrap_or_else(PoisonError::into_inner));
        for pass in unwanted.into_iter().filter(|pass| pass.restarts == state.restarts) {
            state.kept = state.kept.saturating_sub(1);
            if let Some(child) = &state.child {
                let kind = Request::Release as u16;
                child.send(framed(FrameHeader { kind, request: 0, pass: pass.number, images: 0, length: 0 }, &[]));
            }
        }
    }

    /// Asks a question, and checks the answer. Starts the child if there is none.
    fn ask(&self, state: &mut State, question: &Question) -> Result<Vec<f32>, Fault> {
        if state.child.is_none() {
            self.restart(state)?;
        }
        let Question { request, pass, images, arrays, values } = *question;
        let Some(child) = &mut state.child else { return Err(Fault::Start("it has ended".to_owned())) };
        state.request += 1;
        // A pass has the images of a tile.
        let count = images as u32;
        let header = FrameHeader { kind: request as u16, request: state.request, pass, images: count, length: 0 };
        let expected = 4 * (images * values) as u64;
        let answer = child.ask(request, framed(header, arrays), expected, self.command.timeout, &self.cancel)?;
        let answer = checked(request, header, answer)?;
        let found = answer.header;
        if (found.images, found.length) != (count, expected) {
            let words = |images: u32, bytes: u64| format!("{images} images and {bytes} bytes");
            return Err(Fault::Shape {
                request: request.name(),
                found: words(found.images, found.length),
                expected: format!("{}, as {values} numbers of 4 bytes for each image", words(count, expected)),
            });
        }
        let numbers = numbers(&answer.payload);
        Fault::finite(request.name(), &numbers, values)?;
        Ok(numbers)
    }
}

impl Drop for ProcessExtractor {
    fn drop(&mut self) {
        let child = self.state.get_mut().unwrap_or_else(PoisonError::into_inner).child.take();
        if let Some(child) = child.filter(|_| !self.cancel.requested()) {
            let kind = Request::Shutdown as u16;
            child.shut_down(framed(FrameHeader { kind, request: 0, pass: 0, images: 0, length: 0 }, &[]));
        }
    }
}

fn vjp<'a>(images: usize, arrays: &'a [&'a [f32]], values: usize) -> Question<'a> {
    Question { request: Request::Vjp, pass: 0, images, arrays, values }
}

/// Checks that a frame answers the request with the header `asked`.
fn checked(request: Request, asked: FrameHeader, answer: Frame) -> Result<Frame, Fault> {
    let FrameHeader { kind, request: number, .. } = answer.header;
    let name = request.name();
    if kind == FAILED && number == asked.request {
        let message = String::from_utf8_lossy(&answer.payload);
        return Err(Fault::Refused { request: name, message: short(message.trim(), 4 * VALUE).into_owned() });
    }
    if (kind, number) != (request.answer(), asked.request) {
        return Err(Fault::Shape {
            request: name,
            found: format!("a frame of kind {kind:#06x} for request {number}"),
            expected: format!("kind {:#06x} for request {}", request.answer(), asked.request),
        });
    }
    Ok(answer)
}
