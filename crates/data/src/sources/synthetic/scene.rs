//! Drawing of one image: background, clutter, objects, patches and camera.

use std::f32::consts::PI;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use super::object::{Object, Rgb, Shape, Texture, blend, hsv};
use super::{Class, SIZE};
use super::{Domain, Synthetic};

const CENTRE: f32 = SIZE as f32 / 2.0;

/// Draws an image of class `label` as RGB bytes, `[3, 32, 32]`.
pub(super) fn draw(spec: &Synthetic, label: usize, rng: &mut ChaCha8Rng, chw: &mut [u8]) {
    let mut artist = Artist { spec, rng };
    let mut canvas = artist.background();
    for _ in 0..artist.count(12.0) {
        canvas.paint(&artist.clutter(1.0, 3.0));
    }
    if artist.chance(0.6) {
        canvas.paint(&artist.other_object(label));
    }
    canvas.paint(&artist.main_object(label));
    for _ in 0..artist.count(3.0) {
        canvas.paint(&artist.clutter(2.0, 6.0));
    }
    artist.photograph(&canvas, chw);
}

/// The colours of the pixels, row by row.
struct Canvas(Vec<Rgb>);

impl Canvas {
    fn paint(&mut self, object: &Object) {
        for (index, pixel) in self.0.iter_mut().enumerate() {
            let (x, y) = position(index);
            if object.reaches(x, y) {
                let (opacity, colour) = object.at(x, y);
                *pixel = blend(*pixel, colour, opacity);
            }
        }
    }
}

/// The centre of a pixel.
fn position(index: usize) -> (f32, f32) {
    let (x, y) = (index % SIZE, index / SIZE);
    (x as f32 + 0.5, y as f32 + 0.5)
}

/// Draws all parts of an image at random, in a fixed order. The difficulty scales the randomness.
struct Artist<'a> {
    spec: &'a Synthetic,
    rng: &'a mut ChaCha8Rng,
}

impl Artist<'_> {
    fn difficulty(&self) -> f32 {
        self.spec.difficulty as f32
    }

    fn uniform(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.rng.random::<f32>()
    }

    fn normal(&mut self) -> f32 {
        self.rng.sample(StandardNormal)
    }

    /// A uniform number in ±`most`, scaled by the difficulty.
    fn nuisance(&mut self, most: f32) -> f32 {
        self.difficulty() * self.uniform(-most, most)
    }

    /// True with probability `most` times the difficulty.
    fn chance(&mut self, most: f32) -> bool {
        self.rng.random::<f32>() < self.difficulty() * most
    }

    /// A random whole number up to `most` times the difficulty.
    fn count(&mut self, most: f32) -> usize {
        (self.uniform(0.0, 1.0) * (self.difficulty() * most + 0.5)) as usize
    }

    fn any_colour(&mut self) -> Rgb {
        // Domain b has stronger colours.
        let saturation = match self.spec.domain {
            Domain::A => self.uniform(0.0, 0.6),
            Domain::B => self.uniform(0.2, 0.9),
        };
        hsv(self.uniform(0.0, 1.0), saturation, self.uniform(0.15, 0.9))
    }

    fn background(&mut self) -> Canvas {
        let (from, to) = (self.any_colour(), self.any_colour());
        let direction = self.uniform(-PI, PI);
        let waves: [[f32; 4]; 2] = std::array::from_fn(|_| {
            let frequency = self.uniform(0.1, 0.5);
            let angle = self.uniform(-PI, PI);
            let phase = self.uniform(-PI, PI);
            let strength = self.nuisance(0.4);
            [frequency * angle.cos(), frequency * angle.sin(), phase, strength]
        });
        let (sin, cos) = direction.sin_cos();
        let pixel = |index| {
            let (x, y) = position(index);
            let along = (cos * (x - CENTRE) + sin * (y - CENTRE)) / SIZE as f32;
            let waves: f32 = waves.iter().map(|[a, b, phase, strength]| strength * (a * x + b * y + phase).sin()).sum();
            blend(from, to, (0.5 + along + waves).clamp(0.0, 1.0))
        };
        Canvas((0..SIZE * SIZE).map(pixel).collect())
    }

    fn clutter(&mut self, smallest: f32, largest: f32) -> Object {
        let shapes = [Shape::Disc, Shape::Square, Shape::Bar, Shape::Triangle];
        let shape = shapes[self.rng.random_range(0..shapes.len())];
        let colour = self.any_colour();
        Object {
            shape,
            texture: Texture::Plain,
            centre: [self.uniform(0.0, SIZE as f32), self.uniform(0.0, SIZE as f32)],
            radius: self.uniform(smallest, largest),
            rotation: self.uniform(-PI, PI),
            frequency: 0.0,
            phase: 0.0,
            colours: [colour; 2],
        }
    }

    /// Returns the object that determines the class of the image.
    fn main_object(&mut self, label: usize) -> Object {
        let centre = [CENTRE + self.nuisance(8.0), CENTRE + self.nuisance(8.0)];
        let radius = 10.0 - 5.0 * self.difficulty() * self.uniform(0.0, 1.0);
        self.object(label, centre, radius)
    }

    /// Returns a smaller object of any other class, closer to the border.
    fn other_object(&mut self, label: usize) -> Object {
        let step = self.rng.random_range(1..self.spec.classes);
        let angle = self.uniform(-PI, PI);
        let distance = self.uniform(9.0, 13.0);
        let centre = [CENTRE + distance * angle.cos(), CENTRE + distance * angle.sin()];
        let radius = self.uniform(3.5, 6.0);
        self.object((label + step) % self.spec.classes, centre, radius)
    }

    fn object(&mut self, label: usize, centre: [f32; 2], radius: f32) -> Object {
        let Class { texture, shape } = self.spec.table()[label];
        let first_hue = match self.spec.domain {
            Domain::A => 0.0,
            Domain::B => 0.5,
        };
        let mean_hue = first_hue + 0.08 * label as f32;
        let hue = mean_hue + (0.05 + 0.3 * self.difficulty()) * self.normal();
        let value = self.uniform(0.45, 1.0);
        let colour = hsv(hue, self.uniform(0.35, 1.0), value);
        // The second colour is lighter or darker, so that the texture is visible.
        let second_value = if value > 0.7 { value - 0.45 } else { value + 0.45 };
        let second_hue = hue + self.uniform(0.2, 0.8);
        let second = hsv(second_hue, self.uniform(0.1, 0.9), second_value.min(1.0));
        Object {
            shape,
            texture,
            centre,
            radius,
            rotation: self.nuisance(PI),
            frequency: self.uniform(6.0, 10.0),
            phase: self.uniform(-PI, PI),
            colours: [colour, second],
        }
    }

    /// Applies contrast, brightness and noise, and converts to bytes.
    fn photograph(&mut self, canvas: &Canvas, chw: &mut [u8]) {
        let contrast = 1.0 + self.nuisance(0.5);
        let brightness = self.nuisance(0.2);
        let noise = 0.01 + 0.12 * self.difficulty();
        for (channel, plane) in chw.chunks_exact_mut(SIZE * SIZE).enumerate() {
            for (byte, pixel) in plane.iter_mut().zip(&canvas.0) {
                let light = 0.5 + contrast * (pixel[channel] - 0.5) + brightness;
                // The cast saturates.
                *byte = (255.0 * (light + noise * self.normal())).round() as u8;
            }
        }
    }
}
