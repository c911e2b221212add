//! The visibility of poisons: how much they differ from their base images.

use hemlock_artifact::{Images, PixelChange, Poisons, Visibility};
use hemlock_stage::StageError;
use ndarray::{Array2, Array3, ArrayView2, ArrayView3, Axis, Zip};

/// The change of every poison from its base image, for pixels in `[0, 1]`, and the means over all poisons.
///
/// The peak signal-to-noise ratio is `-10 log10(mean squared change)` dB, where an unchanged image counts as changed by
/// half a grey level, the least that 8 bits can hide. The structural similarity is that of [`ssim`], averaged over
/// channels.
///
/// # Errors
/// If a base image is not in `base` or has another size than its poison.
pub fn visibility(poisons: &Poisons, base: &Images) -> Result<(Visibility, Vec<PixelChange>), StageError> {
    let mut changes = Vec::with_capacity(poisons.labels.len());
    let originals = base.pixels.view();
    for (i, index) in poisons.base_index.iter().enumerate() {
        let image = match &poisons.pixels {
            Some(pixels) => pixels.index_axis(Axis(0), i).mapv(f64::from),
            None => unit(poisons.images.index_axis(Axis(0), i)),
        };
        let index = *index as usize;
        if index >= base.len() || originals.index_axis(Axis(0), index).dim() != image.dim() {
            return Err(StageError::internal(format!("a poison's base image {index} is not in the training split")));
        }
        changes.push(change(&image, &unit(originals.index_axis(Axis(0), index))));
    }
    let mean =
        |f: fn(&PixelChange) -> f32| changes.iter().map(|c| f64::from(f(c))).sum::<f64>() / changes.len().max(1) as f64;
    let visibility = Visibility {
        linf: mean(|c| c.linf),
        l2: mean(|c| c.l2),
        psnr: mean(|c| c.psnr),
        ssim: mean(|c| c.ssim),
        outliers: poisons.outliers(),
        outliers_of_features: poisons.outliers_of_features,
        outside: poisons.outside(),
        relative_distance: poisons.relative_distance(),
    };
    Ok((visibility, changes))
}

/// An 8-bit image as values in `[0, 1]`.
fn unit(image: ArrayView3<u8>) -> Array3<f64> {
    image.mapv(|p| f64::from(p) / 255.0)
}

/// The change from the image `b` to the image `a`, both `[3, height, width]`.
fn change(a: &Array3<f64>, b: &Array3<f64>) -> PixelChange {
    let (mut largest, mut squares) = (0.0f64, 0.0f64);
    Zip::from(a).and(b).for_each(|a, b| {
        largest = largest.max((a - b).abs());
        squares += (a - b).powi(2);
    });
    let least = (0.5f64 / 255.0).powi(2);
    let channels = a.axis_iter(Axis(0)).zip(b.axis_iter(Axis(0)));
    let similarity = channels.map(|(a, b)| ssim(a, b)).sum::<f64>() / a.len_of(Axis(0)) as f64;
    PixelChange {
        linf: largest as f32,
        l2: squares.sqrt() as f32,
        psnr: (-10.0 * (squares / a.len() as f64).max(least).log10()) as f32,
        ssim: similarity as f32,
    }
}

/// Structural similarity of two grey images `[height, width]` in `[0, 1]` (Wang, Bovik, Sheikh and Simoncelli, "Image
/// quality assessment: from error visibility to structural similarity", 2004). It is the mean over all 11 x 11 windows
/// inside the images, weighted by a Gaussian of standard deviation 1.5, with `K1 = 0.01` and `K2 = 0.03`. If a side is
/// below 11, windows are as long as that side.
#[must_use]
pub fn ssim(a: ArrayView2<f64>, b: ArrayView2<f64>) -> f64 {
    const C1: f64 = 0.01 * 0.01;
    const C2: f64 = 0.03 * 0.03;
    let (mean_a, mean_b) = (smooth(a), smooth(b));
    let moment = |x: ArrayView2<f64>, y: ArrayView2<f64>| smooth((&x * &y).view());
    let (aa, bb, ab) = (moment(a, a), moment(b, b), moment(a, b));
    let mut sum = 0.0;
    for (at, &ma) in mean_a.indexed_iter() {
        let mb = mean_b[at];
        let (variance_a, variance_b, covariance) = (aa[at] - ma * ma, bb[at] - mb * mb, ab[at] - ma * mb);
        sum += (2.0 * ma * mb + C1) * (2.0 * covariance + C2)
            / ((ma * ma + mb * mb + C1) * (variance_a + variance_b + C2));
    }
    sum / mean_a.len() as f64
}

/// Gaussian means over all windows inside an image, by one pass over columns and one over rows.
fn smooth(image: ArrayView2<f64>) -> Array2<f64> {
    let (height, width) = image.dim();
    let along = |image: ArrayView2<f64>, axis: usize, weights: &[f64]| {
        let mut size = [image.nrows(), image.ncols()];
        size[axis] -= weights.len() - 1;
        let mut means = Array2::zeros(size);
        for (i, weight) in weights.iter().enumerate() {
            means.scaled_add(*weight, &image.slice_axis(Axis(axis), (i..i + size[axis]).into()));
        }
        means
    };
    let columns = along(image, 0, &gaussian(height.min(11)));
    along(columns.view(), 1, &gaussian(width.min(11)))
}

/// The weights of a window of `length` pixels: a Gaussian of standard deviation 1.5 around its centre. They sum to 1.
fn gaussian(length: usize) -> Vec<f64> {
    let middle = (length as f64 - 1.0) / 2.0;
    let weights: Vec<f64> = (0..length).map(|i| (-0.5 * ((i as f64 - middle) / 1.5).powi(2)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_artifact::PoisonFit;
    use ndarray::Array4;

    fn poisons(images: Array4<u8>, base_index: Vec<u32>) -> Poisons {
        let m = base_index.len();
        Poisons {
            images,
            pixels: None,
            labels: vec![0; m],
            base_index,
            attack: String::new(),
            method: String::new(),
            objective: 0.0,
            clean_label: true,
            replaces: false,
            poison_fraction: 0.1,
            fits: vec![PoisonFit { distance: 1.0, norm_z: 4.0, ..PoisonFit::default() }; m],
            clean_nearest: 2.0,
            outliers_of_features: Some(0.25),
            gap: None,
            learner: None,
            curve: vec![],
            refined: vec![],
        }
    }

    #[test]
    fn one_pixel_by_hand() {
        let pixels = Array4::<u8>::from_elem((2, 3, 2, 2), 100);
        let base = Images { pixels: pixels.clone().into(), labels: vec![0, 1], source_index: vec![0, 1] };
        let mut images = pixels.clone().slice_move(ndarray::s![..1, .., .., ..]);
        images[[0, 0, 0, 0]] = 151;
        let (v, changes) = visibility(&poisons(images, vec![1]), &base).unwrap();
        assert!((v.linf - 0.2).abs() < 1e-7 && (v.l2 - 0.2).abs() < 1e-7);
        assert!((v.psnr + 10.0 * (0.04f64 / 12.0).log10()).abs() < 1e-5);
        assert_eq!((v.outliers, v.relative_distance, changes.len()), (1.0, 0.5, 1));
        assert!(v.ssim < 1.0);
        // Pixels that are not clipped are measured as they are, and not as an 8-bit image would show them.
        let unclipped = Array4::from_elem((1, 3, 2, 2), -1.0);
        let shown = poisons(pixels.clone().slice_move(ndarray::s![..1, .., .., ..]), vec![1]);
        let (v, _) = visibility(&Poisons { pixels: Some(unclipped), ..shown }, &base).unwrap();
        assert!((v.linf - (1.0 + 100.0 / 255.0)).abs() < 1e-6);
        let missing = visibility(&poisons(pixels.slice_move(ndarray::s![..1, .., .., ..]), vec![2]), &base);
        assert!(missing.unwrap_err().to_string().contains("base image 2"));
    }

    /// Without structure, the similarity is that of the brightness, `(2 a b + C1) / (a^2 + b^2 + C1)`.
    #[test]
    fn similarity_of_flat_images_in_closed_form() {
        let flat = |v| Array2::from_elem((16, 20), v);
        let (a, b) = (0.3f64, 0.6f64);
        let expected = (2.0 * a * b + 1e-4) / (a * a + b * b + 1e-4);
        assert!((ssim(flat(a).view(), flat(b).view()) - expected).abs() < 1e-9);
    }

    fn pattern(step: usize) -> Array2<f64> {
        Array2::from_shape_fn((13, 14), |(i, j)| ((i * 37 + j * 101 + i * j * step) % 256) as f64 / 255.0)
    }

    /// The value was computed with NumPy from the definition: every window by itself, with weights from the
    /// two-dimensional Gaussian (`tests/ssim_reference.py`).
    #[test]
    fn similarity_is_the_reference_s() {
        let a = pattern(17);
        let b = (&a * 2.0 + pattern(23)) / 3.0;
        assert!((ssim(a.view(), b.view()) - 0.8631022481722953).abs() < 1e-12, "{}", ssim(a.view(), b.view()));
        assert!((ssim(a.view(), a.view()) - 1.0).abs() < 1e-12);
    }
}
