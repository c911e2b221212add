use hemlock_dense::*;
use std::time::Instant;
fn main() {
    for (m, k, n) in [
        (788, 384, 1152),
        (788, 384, 384),
        (788, 384, 1536),
        (788, 1536, 384),
        (197, 64, 197),
        (197, 197, 64),
        (788, 768, 3072),
        (788, 3072, 768),
    ] {
        let a = vec![0.5f32; m * k];
        let b = vec![0.25f32; k * n];
        let p = Packed::new([k, n], |i| &b[i * n..]);
        let mut o = vec![0.0; m * n];
        let mut best = f64::MAX;
        for _ in 0..15 {
            let t = Instant::now();
            for _ in 0..5 {
                product(m, Left::rows(&a, k), &p, &mut o, n, Start::Zero);
            }
            best = best.min(t.elapsed().as_secs_f64() / 5.0);
        }
        println!("{m}x{k}x{n}: {:.1} GFLOP/s", 2e-9 * (m * k * n) as f64 / best);
    }
    let x = vec![0.3f32; 788 * 1536];
    let mut o = x.clone();
    let t = Instant::now();
    for _ in 0..20 {
        Activation::Gelu.forward(1536, &x, &mut o);
    }
    println!("gelu {:.2} ns each", t.elapsed().as_secs_f64() / 20.0 / x.len() as f64 * 1e9);
    let t = Instant::now();
    for _ in 0..20 {
        Activation::Gelu.backward(1536, &x, &x, &mut o);
    }
    println!("gelu' {:.2} ns each", t.elapsed().as_secs_f64() / 20.0 / x.len() as f64 * 1e9);
    let x = vec![0.3f32; 788 * 384];
    let mut o = x.clone();
    let mut s = vec![0.0; 788];
    let t = Instant::now();
    for _ in 0..20 {
        normalise(384, 1e-6, &x, &mut o, &mut s);
    }
    println!("norm {:.2} ns each", t.elapsed().as_secs_f64() / 20.0 / x.len() as f64 * 1e9);
    let h = Heads { count: 6, channels: 64, tokens: 197, queries: 197 };
    let q = vec![0.1f32; 197 * 1152];
    let mut o = vec![0.0; 197 * 384];
    let mut l = vec![0.0; 6 * 197];
    let mut a = Attention::default();
    let t = Instant::now();
    for _ in 0..20 {
        a.forward(h, &q, &mut o, &mut l);
    }
    println!("attention {:.2} ms", t.elapsed().as_secs_f64() / 20.0 * 1e3);
    let g = o.clone();
    let mut gq = q.clone();
    let t = Instant::now();
    for _ in 0..20 {
        a.backward(h, &q, &o, &l, &g, &mut gq);
    }
    println!("attention' {:.2} ms", t.elapsed().as_secs_f64() / 20.0 * 1e3);
}
