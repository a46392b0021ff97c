//! A picture of any size by a network that was trained on smaller ones: tile by tile, on one canvas.
//!
//! Each step predicts every tile of x_t and joins the predictions, weighted by a Gaussian around each tile's middle
//! (Jiménez, "Mixture of Diffusers for scene composition and high resolution image generation", arXiv 2302.02412, with
//! its variance of 0.01 of a tile's squared side); the step itself is one of the whole canvas. All tiles have the same
//! noise and the same small picture where they overlap, so there is no border to be seen.
#![forbid(unsafe_code)]

use crate::engine::device::Launches;
use crate::engine::model::conditioning::Conditioning;
use crate::engine::model::guidance::{Guided, Predict};
use crate::engine::model::unet::UNet;
use crate::error::Result;
use candle_core::{DType, Device, Tensor};

/// The share of a tile's side that lies on its neighbour at least.
const OVERLAP: f64 = 0.25;
/// Variance of the weights, where a tile's side is 1.
const VARIANCE: f64 = 0.01;

/// The places along one side of `length` at which tiles of `tile` begin, spread evenly, with the overlap or more.
pub fn places(length: usize, tile: usize) -> Vec<usize> {
    if length <= tile {
        return vec![0];
    }
    let most = (tile as f64 * (1.0 - OVERLAP)).floor().max(1.0);
    let steps = ((length - tile) as f64 / most).ceil();
    (0..=steps as usize).map(|i| (i as f64 * (length - tile) as f64 / steps).round() as usize).collect()
}

/// The weights of a tile of `tile` along one side, in the middle about 1.
fn weights(tile: usize) -> Vec<f32> {
    let middle = (tile as f64 - 1.0) / 2.0;
    let at = |i: usize| (-((i as f64 - middle) / tile as f64).powi(2) / (2.0 * VARIANCE)).exp();
    (0..tile).map(|i| at(i) as f32).collect()
}

/// A network with guidance that sees a tile at a time.
pub struct Tiled<'a> {
    unet: &'a UNet,
    e: &'a Conditioning,
    e_null: &'a Conditioning,
    guidance: f64,
    /// Where tiles begin, (y, x).
    tiles: Vec<(usize, usize)>,
    /// Height and width of each.
    tile: (usize, usize),
    /// Of a tile, (1, 1, h, w).
    weights: Tensor,
    /// Of all tiles together, (1, 1, h, w) of the canvas.
    sum: Tensor,
    /// Asked before every tile.
    go_on: &'a mut dyn FnMut() -> Result<()>,
}

impl<'a> Tiled<'a> {
    /// From `e_null` by `guidance` towards `e`, both of one item that has the small picture of the whole canvas beside
    /// it. Tiles are squares of `side`, or as large as the canvas where that is smaller. Those that are not `wanted`,
    /// which is told (y, x) and (height, width), are left out: nothing is predicted there.
    pub fn new(
        unet: &'a UNet,
        [e, e_null]: [&'a Conditioning; 2],
        guidance: f64,
        side: usize,
        wanted: impl Fn((usize, usize), (usize, usize)) -> bool,
        go_on: &'a mut dyn FnMut() -> Result<()>,
    ) -> Result<Self> {
        let beside = e.beside.as_ref().expect("a model that enlarges sees the small picture");
        let (_, _, h, w) = beside.dims4()?;
        let tile = (side.min(h), side.min(w));
        let rows = places(h, side).into_iter();
        let tiles: Vec<_> = rows.flat_map(|y| places(w, side).into_iter().map(move |x| (y, x))).collect();
        let tiles: Vec<_> = tiles.into_iter().filter(|&place| wanted(place, tile)).collect();
        let device = beside.device();
        let down = Tensor::from_vec(weights(tile.0), (1, 1, tile.0, 1), device)?;
        let weights = down.broadcast_mul(&Tensor::from_vec(weights(tile.1), (1, 1, 1, tile.1), device)?)?;
        let mut sum = Tensor::zeros((1, 1, h, w), DType::F32, device)?;
        for &place in &tiles {
            sum = (sum + on_canvas(&weights, place, (h, w))?)?;
        }
        // Where there is no tile there is nothing to divide.
        let sum = sum.eq(0f32)?.where_cond(&sum.ones_like()?, &sum)?;
        Ok(Self { unet, e, e_null, guidance, tiles, tile, weights, sum, go_on })
    }

    /// How many tiles there are.
    pub fn count(&self) -> usize {
        self.tiles.len()
    }
}

impl Predict for Tiled<'_> {
    fn device(&self) -> &Device {
        self.sum.device()
    }

    fn predict(&mut self, x_t: &Tensor, t: u32) -> Result<Tensor> {
        let (_, _, h, w) = x_t.dims4()?;
        let mut canvas = x_t.zeros_like()?;
        for &(y, x) in &self.tiles {
            (self.go_on)()?;
            let cut = |whole: &Tensor| -> Result<Tensor> {
                Ok(whole.narrow(2, y, self.tile.0)?.narrow(3, x, self.tile.1)?.contiguous()?)
            };
            let of_tile = |e: &Conditioning| -> Result<Conditioning> {
                Ok(Conditioning { beside: e.beside.as_ref().map(cut).transpose()?, ..e.clone() })
            };
            let (e, e_null) = (of_tile(self.e)?, of_tile(self.e_null)?);
            let mut guided = Guided::new(self.unet, &e, &e_null, self.guidance, Launches::Eager)?;
            let weighted = guided.predict(&cut(x_t)?, t)?.broadcast_mul(&self.weights)?;
            canvas = (canvas + on_canvas(&weighted, (y, x), (h, w))?)?;
        }
        Ok(canvas.broadcast_div(&self.sum)?)
    }
}

/// `tile`, (1, c, h, w), at (y, x) of a canvas of that height and width that is 0 elsewhere.
fn on_canvas(tile: &Tensor, (y, x): (usize, usize), (height, width): (usize, usize)) -> Result<Tensor> {
    let (_, _, h, w) = tile.dims4()?;
    Ok(tile.pad_with_zeros(2, y, height - h - y)?.pad_with_zeros(3, x, width - w - x)?)
}

/// A canvas of (height, width) places made tile by tile, squares of `side` as those of [`Tiled`]: `tile` gets (y, x)
/// and (height, width) of one and gives (1, c, n h, n w). They are joined with the same weights, into (1, c, n height,
/// n width).
pub fn joined(
    (height, width): (usize, usize),
    side: usize,
    mut tile: impl FnMut((usize, usize), (usize, usize)) -> Result<Tensor>,
) -> Result<Tensor> {
    let size = (side.min(height), side.min(width));
    if size == (height, width) {
        return tile((0, 0), size);
    }
    let mut sums: Option<(Tensor, Tensor)> = None;
    for y in places(height, side) {
        for x in places(width, side) {
            let part = tile((y, x), size)?;
            let (_, _, h, w) = part.dims4()?;
            let n = h / size.0;
            let down = Tensor::from_vec(weights(h), (1, 1, h, 1), part.device())?;
            let weights = down.broadcast_mul(&Tensor::from_vec(weights(w), (1, 1, 1, w), part.device())?)?;
            let on_canvas = |part: &Tensor| on_canvas(part, (y * n, x * n), (height * n, width * n));
            let part = (on_canvas(&part.broadcast_mul(&weights)?)?, on_canvas(&weights)?);
            sums = Some(match sums {
                Some((sum, all)) => ((sum + part.0)?, (all + part.1)?),
                None => part,
            });
        }
    }
    let (sum, weights) = sums.expect("there is a tile");
    Ok(sum.broadcast_div(&weights)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_reach_from_end_to_end_and_overlap_by_a_quarter_at_least() {
        for (length, tile, expected) in [
            (5, 8, vec![0]),
            (8, 8, vec![0]),
            (9, 8, vec![0, 1]),
            (14, 8, vec![0, 6]),
            (15, 8, vec![0, 4, 7]),
            (750, 128, vec![0, 89, 178, 267, 355, 444, 533, 622]),
        ] {
            let places = places(length, tile);
            assert_eq!(places, expected, "{length} by {tile}");
            let enough = places.windows(2).all(|pair| (pair[0] + tile - pair[1]) as f64 >= OVERLAP * tile as f64);
            assert!(enough && (length <= tile || places.last() == Some(&(length - tile))));
        }
    }
}
