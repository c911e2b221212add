//! Compares every kernel with sums in f64, and every backward pass with differences.

use crate::{Activation, Addend, Attention, Heads, Left, Packed, normalise, normalise_backward, product};

/// Numbers between -1 and 1 that look random.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn close(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(*a) - b).abs() <= tolerance * largest, "{i}: {a}, not {b}, of {largest}");
    }
}

#[test]
fn products_are_sums_of_products() {
    for [rows, inner, columns] in [[1, 1, 1], [7, 3, 5], [13, 17, 70], [6, 64, 64], [20, 100, 197], [11, 9, 129]] {
        let (a, b, bias) = (numbers(rows * inner, 1), numbers(inner * columns, 2), numbers(columns, 3));
        let expected: Vec<f64> = (0..rows * columns)
            .map(|i| {
                let (row, column) = (i / columns, i % columns);
                let terms = (0..inner).map(|k| f64::from(a[row * inner + k]) * f64::from(b[k * columns + column]));
                terms.sum()
            })
            .collect();
        let transposed = |m: &[f32], [rows, columns]: [usize; 2]| -> Vec<f32> {
            (0..columns).flat_map(|c| (0..rows).map(move |r| r * columns + c)).map(|i| m[i]).collect()
        };
        let right = Packed::new([inner, columns], |i| &b[i * columns..]);
        let turned = transposed(&b, [inner, columns]);
        let same = Packed::transpose([inner, columns], |i| &turned[i * inner..]);
        let left = transposed(&a, [rows, inner]);
        // The rows of the result begin further apart than they are long.
        let stride = columns + 3;
        let kept = |out: &[f32]| -> Vec<f32> { out.chunks(stride).flat_map(|row| row[..columns].to_vec()).collect() };
        for (left, right) in
            [(Left::rows(&a, inner), &right), (Left::columns(&left, rows), &right), (Left::rows(&a, inner), &same)]
        {
            let mut out = vec![7.0; rows * stride];
            product(rows, left, right, &mut out, stride, Addend::Zero);
            close(&kept(&out), &expected, 1e-6);
            assert!(out.chunks(stride).all(|row| row[columns..] == [7.0; 3]));
            product(rows, left, right, &mut out, stride, Addend::ResultAndBias(&bias));
            let twice = expected.iter().enumerate().map(|(i, v)| 2.0 * v + f64::from(bias[i % columns]));
            close(&kept(&out), &twice.collect::<Vec<_>>(), 1e-6);
            product(rows, left, right, &mut out, stride, Addend::Bias(&bias));
            let once = expected.iter().enumerate().map(|(i, v)| v + f64::from(bias[i % columns]));
            close(&kept(&out), &once.collect::<Vec<_>>(), 1e-6);
        }
    }
}

/// A packed matrix of another shape leaves nothing behind.
#[test]
fn memory_is_reused_without_a_trace() {
    let values = numbers(100 * 100, 4);
    let mut packed = Packed::new([100, 100], |i| &values[i * 100..]);
    packed.set([3, 70], |i| &values[i * 70..]);
    let mut out = vec![0.0; 70];
    product(1, Left::rows(&values, 3), &packed, &mut out, 70, Addend::Zero);
    let expected = (0..70).map(|c| (0..3).map(|k| f64::from(values[k]) * f64::from(values[k * 70 + c])).sum());
    close(&out, &expected.collect::<Vec<f64>>(), 1e-6);
}

/// Φ by its series of erf, which converges everywhere.
fn distribution(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..400 {
        term *= x * x / f64::from(2 * n + 1);
        sum += term;
    }
    0.5 + sum * (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt()
}

#[test]
fn activations_and_their_derivatives_are_exact() {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let tanh = |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
    let kinds: [(Activation, &dyn Fn(f64) -> f64); 3] = [
        (Activation::Gelu, &|x| x * distribution(x)),
        (Activation::GeluTanh, &tanh),
        (Activation::QuickGelu, &|x| x * sigmoid(1.702 * x)),
    ];
    let x: Vec<f32> = (-160..=160).map(|i| i as f32 / 20.0).collect();
    let mut out = vec![0.0; x.len()];
    for (activation, f) in kinds {
        activation.forward(x.len(), &x, &mut out);
        for (x, found) in x.iter().zip(&out) {
            let expected = f(f64::from(*x));
            assert!((f64::from(*found) - expected).abs() < 1e-6, "{activation:?} of {x}: {found}, not {expected}");
        }
        activation.backward(x.len(), &x, &vec![2.0; x.len()], &mut out);
        for (x, found) in x.iter().zip(&out) {
            let at = f64::from(*x);
            let expected = 2.0 * (f(at + 1e-5) - f(at - 1e-5)) / 2e-5;
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{activation:?}' of {x}: {found}, not {expected}");
        }
    }
    // Far out, values neither overflow nor become NaN.
    let far = [-1e30f32, -100.0, 100.0, 1e30];
    Activation::Gelu.forward(4, &far, &mut out[..4]);
    assert!(out[..2].iter().all(|v| v.abs() < 1e-30) && out[2..4] == [100.0, 1e30], "{:?}", &out[..4]);
}

#[test]
fn a_gate_multiplies_its_halves() {
    let (x, grad) = (numbers(2 * 10, 5), numbers(10, 6));
    let f = |x: &[f32]| {
        let mut out = vec![0.0; 10];
        Activation::SwiGlu.forward(5, x, &mut out);
        out
    };
    let silu = |x: f32| f64::from(x) / (1.0 + (-f64::from(x)).exp());
    let expected = (0..10).map(|i| silu(x[i / 5 * 10 + i % 5]) * f64::from(x[i / 5 * 10 + 5 + i % 5]));
    close(&f(&x), &expected.collect::<Vec<_>>(), 1e-6);
    let mut found = vec![0.0; 20];
    Activation::SwiGlu.backward(5, &x, &grad, &mut found);
    close(&found, &differences(&x, &grad, f), 1e-3);
}

/// Central differences of the product of `f` with `grad`.
fn differences(x: &[f32], grad: &[f32], f: impl Fn(&[f32]) -> Vec<f32>) -> Vec<f64> {
    let at = |i: usize, step: f32| {
        let mut moved = x.to_vec();
        moved[i] += step;
        f(&moved).iter().zip(grad).map(|(v, g)| f64::from(*v) * f64::from(*g)).sum::<f64>()
    };
    (0..x.len()).map(|i| (at(i, 4e-3) - at(i, -4e-3)) / 8e-3).collect()
}

#[test]
fn rows_are_normalised() {
    for width in [5, 16, 37] {
        let (x, grad) = (numbers(3 * width, 7), numbers(3 * width, 8));
        let f = |x: &[f32]| {
            let (mut out, mut scales) = (vec![0.0; x.len()], vec![0.0; 3]);
            normalise(width, 0.01, x, &mut out, &mut scales);
            (out, scales)
        };
        let (out, scales) = f(&x);
        for (row, out) in x.chunks(width).zip(out.chunks(width)) {
            let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / width as f64;
            let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / width as f64;
            let expected: Vec<f64> = row.iter().map(|v| (f64::from(*v) - mean) / (variance + 0.01).sqrt()).collect();
            close(out, &expected, 1e-6);
        }
        let mut found = vec![0.0; x.len()];
        normalise_backward(width, &out, &scales, &grad, &mut found);
        close(&found, &differences(&x, &grad, |x| f(x).0), 1e-3);
        normalise_backward(width, &out, &scales, &grad, &mut found);
        let twice: Vec<f64> = differences(&x, &grad, |x| f(x).0).iter().map(|v| 2.0 * v).collect();
        close(&found, &twice, 1e-3);
    }
}

#[test]
fn attention_is_a_weighted_mean() {
    for queries in [7, 2] {
        let heads = Heads { count: 2, channels: 5, tokens: 7, queries };
        let (width, stride) = (heads.width(), 3 * heads.width());
        let qkv: Vec<f32> = numbers(heads.tokens * stride, 9).iter().map(|v| 2.0 * v).collect();
        let grad = numbers(queries * width, 10);
        let f = |qkv: &[f32]| {
            let (mut out, mut logs) = (vec![0.0; queries * width], vec![0.0; heads.count * queries]);
            Attention::default().forward(heads, qkv, &mut out, &mut logs);
            (out, logs)
        };
        let (out, logs) = f(&qkv);
        let at = |token: usize, part: usize, channel: usize| f64::from(qkv[token * stride + part * width + channel]);
        let score = |token: usize, other: usize, head: usize| -> f64 {
            let channels = head..head + heads.channels;
            channels.map(|c| at(token, 0, c) * at(other, 1, c)).sum::<f64>().exp()
        };
        let mean = |i: usize| -> f64 {
            let (token, channel) = (i / width, i % width);
            let head = channel / heads.channels * heads.channels;
            let scores: Vec<f64> = (0..heads.tokens).map(|other| score(token, other, head)).collect();
            let total: f64 = scores.iter().sum();
            scores.iter().enumerate().map(|(other, s)| s / total * at(other, 2, channel)).sum()
        };
        close(&out, &(0..queries * width).map(mean).collect::<Vec<_>>(), 1e-5);
        let mut found = vec![0.0; qkv.len()];
        Attention::default().backward(heads, &qkv, &out, &logs, &grad, &mut found);
        close(&found, &differences(&qkv, &grad, |x| f(x).0), 2e-3);
    }
}
