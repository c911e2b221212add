//! Shapes, textures and colours of objects.

use std::f32::consts::{FRAC_PI_3, PI};

/// Red, green and blue, each in `[0, 1]`.
pub(super) type Rgb = [f32; 3];

/// An outline, about as large as the unit circle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Disc,
    Ring,
    Square,
    Triangle,
    Cross,
    Star,
    Bar,
    Crescent,
}

/// How an object's two colours alternate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Texture {
    Plain,
    Striped,
    Checkered,
    Dotted,
}

impl Shape {
    pub fn name(self) -> &'static str {
        match self {
            Self::Disc => "disc",
            Self::Ring => "ring",
            Self::Square => "square",
            Self::Triangle => "triangle",
            Self::Cross => "cross",
            Self::Star => "star",
            Self::Bar => "bar",
            Self::Crescent => "crescent",
        }
    }

    /// Returns the signed distance to the outline, negative inside. It is exact near straight and round edges only.
    pub fn distance(self, x: f32, y: f32) -> f32 {
        let r = x.hypot(y);
        let rectangle = |half_width: f32, half_height: f32| (x.abs() - half_width).max(y.abs() - half_height);
        match self {
            Self::Disc => r - 0.9,
            Self::Ring => (r - 0.7).abs() - 0.24,
            Self::Square => rectangle(0.78, 0.78),
            // Three half planes at the inradius.
            Self::Triangle => {
                let side = |angle: f32| x * angle.sin() + y * angle.cos();
                side(0.0).max(side(2.0 * FRAC_PI_3)).max(side(-2.0 * FRAC_PI_3)) - 0.5
            }
            Self::Cross => rectangle(0.95, 0.3).min(rectangle(0.3, 0.95)),
            Self::Star => {
                // Folded into a tenth of the circle, the outline is one line from tip to notch.
                let tenth = PI / 5.0;
                let angle = (y.atan2(x).rem_euclid(2.0 * tenth) - tenth).abs();
                let (px, py) = (r * (tenth - angle).cos(), r * (tenth - angle).sin());
                let (notch_x, notch_y) = (0.42 * tenth.cos(), 0.42 * tenth.sin());
                let (dx, dy) = (notch_x - 1.0, notch_y);
                ((px - 1.0) * dy - py * dx) / dx.hypot(dy)
            }
            Self::Bar => rectangle(1.0, 0.32),
            Self::Crescent => (r - 0.95).max(0.75 - (x - 0.45).hypot(y)),
        }
    }
}

impl Texture {
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Striped => "striped",
            Self::Checkered => "checkered",
            Self::Dotted => "dotted",
        }
    }

    /// Returns the share of the second colour, in `[0, 1]`, at the phases `u` and `v`, in radians.
    pub fn mix(self, u: f32, v: f32) -> f32 {
        let wave = match self {
            Self::Plain => return 0.0,
            Self::Striped => u.sin(),
            Self::Checkered => 1.5 * u.sin() * v.sin(),
            Self::Dotted => u.cos() + v.cos() - 0.7,
        };
        // Steep, but without jagged edges.
        (0.5 + wave).clamp(0.0, 1.0)
    }
}

/// An object in an image. Lengths are in pixels.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub shape: Shape,
    pub texture: Texture,
    pub centre: [f32; 2],
    pub radius: f32,
    /// Rotation, in radians.
    pub rotation: f32,
    /// Frequency of the texture, in radians per radius of the object.
    pub frequency: f32,
    /// Phase of the texture, in radians.
    pub phase: f32,
    pub colours: [Rgb; 2],
}

/// Every shape lies within this many radii of its centre.
const REACH: f32 = 1.11;

impl Object {
    /// Whether the object may cover a part of a pixel. If it returns false, the object certainly does not.
    pub fn reaches(&self, x: f32, y: f32) -> bool {
        (x - self.centre[0]).hypot(y - self.centre[1]) < REACH * self.radius + 1.0
    }

    /// Returns opacity and colour at a pixel's centre.
    pub fn at(&self, x: f32, y: f32) -> (f32, Rgb) {
        let (sin, cos) = self.rotation.sin_cos();
        let (dx, dy) = ((x - self.centre[0]) / self.radius, (y - self.centre[1]) / self.radius);
        let (x, y) = (cos * dx + sin * dy, cos * dy - sin * dx);
        let opacity = (0.5 - self.shape.distance(x, y) * self.radius).clamp(0.0, 1.0);
        let share = self.texture.mix(self.frequency * x + self.phase, self.frequency * y + self.phase);
        (opacity, blend(self.colours[0], self.colours[1], share))
    }
}

/// Mixes `share` of `b` with the rest of `a`.
pub(super) fn blend(a: Rgb, b: Rgb, share: f32) -> Rgb {
    std::array::from_fn(|channel| a[channel] + share * (b[channel] - a[channel]))
}

/// Converts a hue in turns, and saturation and value in `[0, 1]`, to RGB.
pub(super) fn hsv(hue: f32, saturation: f32, value: f32) -> Rgb {
    // The usual six-sector formula in closed form.
    [5.0, 3.0, 1.0].map(|offset: f32| {
        let sector = (offset + 6.0 * hue).rem_euclid(6.0);
        value * (1.0 - saturation * sector.min(4.0 - sector).clamp(0.0, 1.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_cover_what_their_names_say() {
        for (shape, inside, outside) in [
            (Shape::Disc, [0.0, 0.8], [0.7, 0.7]),
            (Shape::Ring, [0.0, 0.7], [0.0, 0.0]),
            (Shape::Square, [0.7, 0.7], [0.9, 0.0]),
            (Shape::Triangle, [0.0, -0.9], [0.0, 0.9]),
            (Shape::Cross, [0.9, 0.0], [0.6, 0.6]),
            (Shape::Star, [0.9, 0.0], [-0.6, 0.0]),
            (Shape::Bar, [0.9, 0.0], [0.0, 0.9]),
            (Shape::Crescent, [-0.6, 0.0], [0.4, 0.0]),
        ] {
            assert!(shape.distance(inside[0], inside[1]) < 0.0, "{shape:?}");
            assert!(shape.distance(outside[0], outside[1]) > 0.0, "{shape:?}");
            for step in 0..64 {
                let (sin, cos) = (step as f32 * PI / 32.0).sin_cos();
                let distance = shape.distance(REACH * cos, REACH * sin);
                assert!(distance > 0.0, "{shape:?} reaches too far");
            }
        }
    }

    #[test]
    fn colours_of_known_hues() {
        assert_eq!(hsv(0.0, 1.0, 1.0), [1.0, 0.0, 0.0]);
        assert_eq!(hsv(0.5, 1.0, 0.5), [0.0, 0.5, 0.5]);
        assert_eq!(hsv(0.3, 0.0, 0.25), [0.25; 3]);
        assert_eq!(hsv(-1.0, 1.0, 1.0), hsv(0.0, 1.0, 1.0));
    }

    #[test]
    fn textures_show_both_colours() {
        for texture in [Texture::Striped, Texture::Checkered, Texture::Dotted] {
            let shares: Vec<f32> =
                (0..256).map(|i| texture.mix((i % 16) as f32 * 0.4, (i / 16) as f32 * 0.4)).collect();
            let mean = shares.iter().sum::<f32>() / 256.0;
            assert!((0.2..0.8).contains(&mean), "{texture:?}: {mean}");
        }
    }
}
