//! Extractors that are functions of whoever embeds Hemlock, such as a network of another framework in the same process.

use std::fmt;

use hemlock_process::{Description, Fault};
use hemlock_stage::{ErrorKind, Failure};

/// Features and gradients of images, computed by functions that somebody else owns. Images are `[n, 3, h, w]` in
/// `[0, 1]`, of the size that [`ExtractorFunctions::about`] says. The functions are called from several threads.
pub trait ExtractorFunctions: fmt::Debug + Send + Sync {
    /// The name, the number of features, the size of the images, and the number of passes that may be kept at once.
    fn about(&self) -> &Description;

    /// Features `[n, d]` of images.
    ///
    /// # Errors
    /// What went wrong.
    fn forward(&self, pixels: &[f32]) -> Result<Vec<f32>, Fault>;

    /// Features `[n, d]` of images, and the backward pass from them, if there is one that needs no second forward pass.
    ///
    /// # Errors
    /// What went wrong.
    fn forward_kept(&self, pixels: &[f32]) -> Result<(Vec<f32>, Option<KeptBackward>), Fault>;

    /// The vector-Jacobian product: given the gradient of a scalar with respect to the features, `[n, d]`, returns its
    /// gradient with respect to the pixels, `[n, 3, h, w]`.
    ///
    /// # Errors
    /// What went wrong.
    fn vjp(&self, pixels: &[f32], grad_features: &[f32]) -> Result<Vec<f32>, Fault>;
}

/// A backward pass: given the gradient with respect to the features, returns the gradient with respect to the pixels.
pub type KeptBackward = Box<dyn FnOnce(&[f32]) -> Result<Vec<f32>, Fault> + Send>;

/// A function of an extractor failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the extractor `{name}` {fault}")]
pub struct FunctionError {
    /// The extractor's name.
    pub name: String,
    /// What went wrong.
    pub fault: Fault,
}

impl Failure for FunctionError {
    fn class(&self) -> ErrorKind {
        self.fault.class()
    }
}

/// A backward pass that is kept.
pub(super) struct Kept(KeptBackward);

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a backward pass")
    }
}

/// [`ExtractorFunctions::forward`], checked.
pub(super) fn forward(functions: &dyn ExtractorFunctions, pixels: &[f32]) -> Result<Vec<f32>, FunctionError> {
    let values = functions.about().features;
    checked(functions, "forward", pixels, values, functions.forward(pixels))
}

/// [`ExtractorFunctions::forward_kept`], checked.
pub(super) fn forward_kept(
    functions: &dyn ExtractorFunctions,
    pixels: &[f32],
) -> Result<(Vec<f32>, Option<Kept>), FunctionError> {
    let (made, kept) = match functions.forward_kept(pixels) {
        Ok((features, kept)) => (Ok(features), kept),
        Err(fault) => (Err(fault), None),
    };
    let features = checked(functions, "forward", pixels, functions.about().features, made)?;
    Ok((features, kept.map(Kept)))
}

/// The vector-Jacobian product, by the pass that was kept or, without one, by a new one.
pub(super) fn backward(
    functions: &dyn ExtractorFunctions,
    kept: Option<Kept>,
    pixels: &[f32],
    grad_features: &[f32],
) -> Result<Vec<f32>, FunctionError> {
    let made = match kept {
        Some(Kept(back)) => back(grad_features),
        None => functions.vjp(pixels, grad_features),
    };
    checked(functions, "vjp", pixels, pixels_of_image(functions), made)
}

/// Number of pixels of an image, in all channels.
fn pixels_of_image(functions: &dyn ExtractorFunctions) -> usize {
    let [height, width] = functions.about().image_size;
    3 * height * width
}

/// What a function made, if it is `values` finite numbers for each image.
fn checked(
    functions: &dyn ExtractorFunctions,
    request: &'static str,
    pixels: &[f32],
    values: usize,
    made: Result<Vec<f32>, Fault>,
) -> Result<Vec<f32>, FunctionError> {
    let images = pixels.len() / pixels_of_image(functions).max(1);
    let whole = |made: Vec<f32>| {
        if made.len() != images * values {
            let found = format!("{} numbers", made.len());
            return Err(Fault::Shape { request, found, expected: format!("{values} for each of {images} images") });
        }
        Fault::finite(request, &made, values)?;
        Ok(made)
    };
    made.and_then(whole).map_err(|fault| FunctionError { name: functions.about().name.clone(), fault })
}
