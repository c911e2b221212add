//! The parameters of a head.

use hemlock_optim::norm;
use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut1, ArrayViewMut2, Axis};

use crate::{HeadError, Samples};

/// Parameters of a linear softmax head, packed `[K, d + 1]`: weight columns first, bias last. All parameters are
/// finite, and there are at least two classes and one feature.
#[derive(Debug, Clone, PartialEq)]
pub struct Head(Array2<f64>);

impl Head {
    /// The head whose parameters are all zero, which gives every class the same probability.
    ///
    /// # Errors
    /// Returns an error if there are fewer than two classes, or no features.
    pub fn zeros(classes: usize, dim: usize) -> Result<Self, HeadError> {
        Self::from_packed(Array2::zeros((classes, dim + 1)))
    }

    /// A head from packed parameters `[K, d + 1]`.
    ///
    /// # Errors
    /// Returns an error if there are fewer than two classes, no features, or a parameter that is not finite.
    pub fn from_packed(packed: Array2<f64>) -> Result<Self, HeadError> {
        let (classes, columns) = packed.dim();
        if classes < 2 {
            return Err(HeadError::TooFewClasses { classes });
        }
        if columns < 2 {
            return Err(HeadError::NoFeatures);
        }
        if let Some(((row, column), &value)) = packed.indexed_iter().find(|(_, value)| !value.is_finite()) {
            return Err(HeadError::NonFiniteParameter { row, column, value });
        }
        Ok(Self(packed))
    }

    /// A view of all parameters, `[K, d + 1]`, bias last.
    pub fn packed(&self) -> ArrayView2<'_, f64> {
        self.0.view()
    }

    /// All parameters, `[K, d + 1]`, bias last, without a copy.
    pub fn into_packed(self) -> Array2<f64> {
        self.0
    }

    /// The weights `W`, `[K, d]`.
    pub fn weight(&self) -> ArrayView2<'_, f64> {
        unpack(self.packed()).0
    }

    /// The biases `b`, `[K]`.
    pub fn bias(&self) -> ArrayView1<'_, f64> {
        unpack(self.packed()).1
    }

    /// The number of classes `K`.
    pub fn classes(&self) -> usize {
        self.0.nrows()
    }

    /// The number of features `d`.
    pub fn dim(&self) -> usize {
        self.0.ncols() - 1
    }

    /// The L2 norm of all parameters, the bias included.
    pub fn norm(&self) -> f64 {
        norm(&self.0)
    }

    /// Returns an error if `dim` is not the number of features of this head.
    pub(crate) fn check_dim(&self, dim: usize) -> Result<(), HeadError> {
        if dim == self.dim() { Ok(()) } else { Err(HeadError::FeatureCount { expected: self.dim(), found: dim }) }
    }

    /// Checks that samples fit this head.
    ///
    /// # Errors
    /// Returns an error if a block has a different number of features or classes than this head.
    pub fn check_samples(&self, blocks: &[Samples<'_>]) -> Result<(), HeadError> {
        for block in blocks {
            self.check_dim(block.dim())?;
            if block.classes() != self.classes() {
                return Err(HeadError::ClassCount { expected: self.classes(), found: block.classes() });
            }
        }
        Ok(())
    }

    /// Checks that an argument is packed like this head. `what` names it in the message.
    ///
    /// # Errors
    /// Returns [`HeadError::PackedShape`] if the shape of the argument is not `[K, d + 1]`.
    pub fn check_packed(&self, what: &'static str, argument: &ArrayView2<'_, f64>) -> Result<(), HeadError> {
        if argument.dim() == self.0.dim() {
            Ok(())
        } else {
            Err(HeadError::PackedShape { what, expected: self.0.dim(), found: argument.dim() })
        }
    }
}

/// Splits packed parameters `[K, d + 1]` into weights `[K, d]` and biases `[K]`.
#[must_use]
pub fn unpack<T>(packed: ArrayView2<'_, T>) -> (ArrayView2<'_, T>, ArrayView1<'_, T>) {
    let dim = packed.ncols() - 1;
    let (weight, bias) = packed.split_at(Axis(1), dim);
    (weight, bias.index_axis_move(Axis(1), 0))
}

/// [`unpack`] with mutable views.
pub(crate) fn unpack_mut<T>(packed: &mut Array2<T>) -> (ArrayViewMut2<'_, T>, ArrayViewMut1<'_, T>) {
    let dim = packed.ncols() - 1;
    let (weight, bias) = packed.view_mut().split_at(Axis(1), dim);
    (weight, bias.index_axis_move(Axis(1), 0))
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn unpacks_weight_and_bias() {
        let head = Head::from_packed(array![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).unwrap();
        assert_eq!((head.classes(), head.dim()), (2, 2));
        assert_eq!(head.weight(), array![[1.0, 2.0], [4.0, 5.0]]);
        assert_eq!(head.bias(), array![3.0, 6.0]);
        assert_eq!(head.norm(), 91f64.sqrt());
    }

    #[test]
    fn refuses_what_is_no_head() {
        assert_eq!(Head::zeros(1, 3), Err(HeadError::TooFewClasses { classes: 1 }));
        assert_eq!(Head::zeros(2, 0), Err(HeadError::NoFeatures));
        assert_eq!(
            Head::from_packed(array![[0.0, 0.0], [0.0, f64::INFINITY]]),
            Err(HeadError::NonFiniteParameter { row: 1, column: 1, value: f64::INFINITY })
        );
    }
}
