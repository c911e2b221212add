//! How visible poisons are beside the images that they started from.

use hemlock_artifact::{Images, Poisons, Visibility};
use hemlock_stage::StageError;
use ndarray::Axis;

/// Change of every poison against its base image, pixels in `[0, 1]`; means over poisons.
///
/// The peak signal-to-noise ratio is `-10 log10(mean squared change)` dB; an unchanged image counts as a change of half
/// a grey level, the least that 8 bits can hide.
///
/// # Errors
/// A base image is not there, or has another size.
pub fn visibility(poisons: &Poisons, base: &Images) -> Result<Visibility, StageError> {
    let (mut linf, mut l2, mut psnr) = (0.0, 0.0, 0.0);
    for (image, index) in poisons.images.axis_iter(Axis(0)).zip(&poisons.base_index) {
        let index = *index as usize;
        if index >= base.len() || base.pixels.index_axis(Axis(0), index).dim() != image.dim() {
            return Err(StageError::internal(format!("a poison's base image {index} is not in the training split")));
        }
        let (mut largest, mut squares) = (0.0f64, 0.0f64);
        for (a, b) in image.iter().zip(base.pixels.index_axis(Axis(0), index)) {
            let change = (f64::from(*a) - f64::from(*b)).abs() / 255.0;
            largest = largest.max(change);
            squares += change * change;
        }
        linf += largest;
        l2 += squares.sqrt();
        let least = (0.5f64 / 255.0).powi(2);
        psnr -= 10.0 * (squares / image.len() as f64).max(least).log10();
    }
    let m = poisons.labels.len().max(1) as f64;
    Ok(Visibility { linf: linf / m, l2: l2 / m, psnr: psnr / m })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array4;

    #[test]
    fn one_pixel_by_hand() {
        let pixels = Array4::<u8>::from_elem((2, 3, 2, 2), 100);
        let base = Images { pixels: pixels.clone(), labels: vec![0, 1], source_index: vec![0, 1] };
        let mut images = pixels.clone().slice_move(ndarray::s![..1, .., .., ..]);
        images[[0, 0, 0, 0]] = 151;
        let poisons = Poisons {
            images,
            labels: vec![0],
            base_index: vec![1],
            method: String::new(),
            distance: vec![0.0],
            curve: vec![],
        };
        let v = visibility(&poisons, &base).unwrap();
        assert!((v.linf - 0.2).abs() < 1e-12 && (v.l2 - 0.2).abs() < 1e-12);
        assert!((v.psnr + 10.0 * (0.04f64 / 12.0).log10()).abs() < 1e-9);
    }
}
