//! Memory of the outputs of a network's layers, which outputs may share.

use std::sync::Arc;

use hemlock_conv::BlockedTensor;

/// How many outputs a pass keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// All, as a backward pass reads them.
    All,
    /// Those of one block: few enough to stay in the cache.
    Block,
}

/// Tensors for the outputs of all layers, in their order.
#[derive(Debug, Clone)]
pub(super) struct Buffers {
    /// For every output, the number of its tensor.
    slots: Arc<[usize]>,
    tensors: Vec<BlockedTensor>,
}

impl Buffers {
    /// Tensors for outputs of these `shapes`. `blocks` has the number of the first output of every group of outputs
    /// that are needed at the same time; the output before it is needed, too.
    pub(super) fn new(shapes: &[[usize; 4]], blocks: &[usize], kept: Kept, border: usize) -> Self {
        let (mut slots, mut kinds): (Vec<usize>, Vec<[usize; 4]>) = (Vec::new(), Vec::new());
        for (i, shape) in shapes.iter().enumerate() {
            let first = blocks.iter().rev().find(|first| **first <= i).map_or(0, |first| first.saturating_sub(1));
            let free = |slot: &usize| kinds[*slot] == *shape && !slots[first..].contains(slot);
            let slot = (0..kinds.len()).find(|slot| kept == Kept::Block && free(slot)).unwrap_or(kinds.len());
            if slot == kinds.len() {
                kinds.push(*shape);
            }
            slots.push(slot);
        }
        let tensors = kinds.into_iter().map(|shape| BlockedTensor::new(shape, border)).collect();
        Self { slots: slots.into(), tensors }
    }

    pub(super) fn output(&self, output: usize) -> &BlockedTensor {
        &self.tensors[self.slots[output]]
    }

    pub(super) fn output_mut(&mut self, output: usize) -> &mut BlockedTensor {
        &mut self.tensors[self.slots[output]]
    }

    /// The last output; `None` if there are no layers.
    pub(super) fn last(&self) -> Option<&BlockedTensor> {
        self.slots.last().map(|slot| &self.tensors[*slot])
    }

    pub(super) fn last_mut(&mut self) -> Option<&mut BlockedTensor> {
        self.slots.last().map(|slot| &mut self.tensors[*slot])
    }

    /// Two outputs to read and one to write, which is another.
    pub(super) fn split(&mut self, read: [usize; 2], write: usize) -> ([&BlockedTensor; 2], &mut BlockedTensor) {
        let written = self.slots[write];
        let (before, rest) = self.tensors.split_at_mut(written);
        let (out, after) = rest.split_at_mut(1);
        let (before, after) = (&*before, &*after);
        let [a, b] = read.map(|output| self.slots[output]);
        let tensor = |slot: usize| if slot < written { &before[slot] } else { &after[slot - written - 1] };
        ([tensor(a), tensor(b)], &mut out[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_share_memory_only_between_blocks() {
        let (wide, narrow) = ([1, 1, 4, 4], [1, 1, 2, 2]);
        let shapes = [wide, wide, wide, wide, wide, narrow, narrow];
        let all = Buffers::new(&shapes, &[0, 1, 3, 5], Kept::All, 0);
        assert_eq!(*all.slots, [0, 1, 2, 3, 4, 5, 6]);
        let few = Buffers::new(&shapes, &[0, 1, 3, 5], Kept::Block, 0);
        assert_eq!(*few.slots, [0, 1, 2, 0, 1, 3, 4]);
        assert_eq!(few.tensors.len(), 5);
    }

    #[test]
    fn reads_and_writes_different_outputs() {
        let mut buffers = Buffers::new(&[[1, 1, 1, 1]; 3], &[0], Kept::All, 0);
        buffers.output_mut(0).load(&[1.0]);
        buffers.last_mut().unwrap().load(&[3.0]);
        let ([a, b], out) = buffers.split([2, 0], 1);
        out.load(&[a.means()[0] + b.means()[0]]);
        assert_eq!(buffers.output(1).means(), [4.0]);
        assert_eq!(buffers.last().unwrap().means(), [3.0]);
    }
}
