//! Convolutions of 3x3 that keep the size, by Winograd's minimal filtering F(2x2, 3x3): 2.25 times fewer
//! multiplications.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section 4.1. The output is cut into
//! tiles of 2x2; each comes from a tile of 4x4 of the input, and neighbors overlap by two.
//!
//! | code | paper |
//! |---|---|
//! | `d` | d, a tile of the input |
//! | `g` | g, the kernel of one pair of channels |
//! | `v` | V = B^T d B, formula 12 |
//! | `u` | U = G g G^T |
//! | `m` | M = U V, summed over channels: one matrix product for each of the 16 places of a tile |
//! | `times_b_t`, `times_g`, `times_a_t` | B^T, G, A^T of formula 8 |
//!
//! The gradients follow from y = A^T M A: with respect to the input, it is the convolution of dy with the kernel turned
//! by 180 degrees and its channels exchanged; with respect to the kernel, dM = A dy A^T, dU = dM V^T summed over tiles,
//! dg = G^T dU G.
#![forbid(unsafe_code)]

use super::gemm::{Matrix, Out, Threads, matmul};
use super::values::{Numbers, vectorized, with_buffer};
use rayon::prelude::*;
use std::array::from_fn;
use std::ops::Range;

/// Places of a tile of the input.
const PLACES: usize = 16;
/// Elements that are transformed at a time: neighboring tiles, or neighboring channels.
const LANES: usize = 16;
type Lanes = [f32; LANES];

/// Channels of the result that one task computes, so that their part of `u` stays in the cache; fixed, so that
/// the matrix products do not depend on the threads.
const CHANNELS: usize = 32;
/// Tiles that one task computes if the result has no more channels than that, as in the VAE's last layers.
const FEW_TILES: usize = 128;
/// Elements of `v` that exist at a time, about.
const BAND_VALUES: usize = 2 << 20;

/// A convolution's pictures, cut into tiles.
pub struct Tiles {
    b: usize,
    h: usize,
    w: usize,
    rows: usize,
    columns: usize,
}

/// Weights (o, c, 3, 3), read as a convolution from `columns` to `rows` channels.
struct Kernel<'a> {
    weight: Numbers<'a>,
    rows: usize,
    columns: usize,
    direction: Direction,
}

/// A part of a convolution's result.
struct Task<'y> {
    /// Rows of tiles, counted through the batch.
    part: Range<usize>,
    channels: Range<usize>,
    /// What they cover of the first item, a piece of each channel, then of the second ...
    y: Vec<&'y mut [f32]>,
}

/// What a convolution computes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// y from x.
    Forward,
    /// dx from dy.
    Backward,
}

impl Tiles {
    /// Of `b` pictures of `h` by `w`.
    pub fn new(b: usize, h: usize, w: usize) -> Self {
        Self { b, h, w, rows: h.div_ceil(2), columns: w.div_ceil(2) }
    }

    /// Tiles of the whole batch.
    pub fn count(&self) -> usize {
        self.b * self.rows * self.columns
    }

    /// `x`: (b, c, h, w), `weight`: (o, c, 3, 3), `bias`: (o); gives (b, o, h, w).
    pub fn forward(&self, x: &[f32], weight: Numbers<'_>, bias: &[f32]) -> Vec<f32> {
        let rows = bias.len();
        let kernel = Kernel { weight, rows, columns: weight.len() / (9 * rows), direction: Direction::Forward };
        self.convolve(x, &kernel, Some(bias))
    }

    /// `weight`: (o, c, 3, 3), `dy`: (b, o, h, w); gives (b, c, h, w).
    pub fn input_gradient(&self, weight: Numbers<'_>, dy: &[f32]) -> Vec<f32> {
        let columns = dy.len() / (self.b * self.h * self.w);
        let kernel = Kernel { weight, rows: weight.len() / (9 * columns), columns, direction: Direction::Backward };
        self.convolve(dy, &kernel, None)
    }

    /// `x`: (b, c, h, w), `dy`: (b, o, h, w); fills `dw`, (o, c, 3, 3).
    pub fn weight_gradient(&self, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        let pictures = self.b * self.h * self.w;
        let (c, o) = (x.len() / pictures, dy.len() / pictures);
        for band in self.bands(c.max(o)) {
            let mode = if band.start == 0 { Out::Replace } else { Out::Add };
            let (tiles, padded) = self.width(&band);
            with_buffer(PLACES * c * padded, |v| {
                with_buffer(PLACES * tiles * o, |dm| {
                    self.transform_input(x, &band, v);
                    self.transform_gradient(dy, &band, dm);
                    band_weight_gradient(dw, mode, v, dm, [tiles, c, o]);
                });
            });
        }
    }

    fn convolve(&self, x: &[f32], kernel: &Kernel<'_>, bias: Option<&[f32]>) -> Vec<f32> {
        let mut y = vec![0.0; self.b * kernel.rows * self.h * self.w];
        for band in self.bands(kernel.columns) {
            let (_, padded) = self.width(&band);
            with_buffer(PLACES * kernel.columns * padded, |v| {
                self.transform_input(x, &band, v);
                self.convolve_band(&mut y, &band, v, kernel, bias);
            });
        }
        y
    }

    /// Fills the part of `y`, (b, o, h, w), that belongs to the tiles `v`.
    fn convolve_band(&self, y: &mut [f32], band: &Range<usize>, v: &[f32], kernel: &Kernel<'_>, bias: Option<&[f32]>) {
        let Kernel { rows: o, columns: c, .. } = *kernel;
        let (_, padded) = self.width(band);
        // Each task has some of the channels; where there are few, some of the band's rows of tiles too.
        // They start at a multiple of the lanes.
        let start_at = LANES >> self.columns.trailing_zeros().min(LANES.trailing_zeros());
        let few = FEW_TILES.div_ceil(self.columns).next_multiple_of(start_at);
        let rows = if o > CHANNELS { band.len() } else { few };
        let mut tasks = Vec::new();
        for start in band.clone().step_by(rows) {
            for first in (0..o).step_by(CHANNELS) {
                let (part, channels) = (start..(start + rows).min(band.end), first..(first + CHANNELS).min(o));
                tasks.push(Task { part, channels, y: Vec::new() });
            }
        }
        for (index, y) in y.chunks_mut(self.h * self.w).enumerate() {
            let (item, channel) = (index / o, index % o);
            let (mut rest, mut above) = (y, 0);
            for task in tasks.iter_mut().filter(|task| task.channels.contains(&channel)) {
                let Some((_, rows, _)) = self.runs(&task.part).find(|run| run.0 == item) else { continue };
                let (start, end) = (2 * rows.start, self.h.min(2 * rows.end));
                let (_, from_start) = rest.split_at_mut((start - above) * self.w);
                let (piece, below) = from_start.split_at_mut((end - start) * self.w);
                task.y.push(piece);
                (rest, above) = (below, end);
            }
        }
        tasks.into_par_iter().for_each(|Task { part, channels, mut y }| {
            let first_tile = (part.start - band.start) * self.columns;
            let (_, width) = self.width(&part);
            with_buffer(PLACES * channels.len() * (c + width) + 4 * width, |buffer| {
                let (u, rest) = buffer.split_at_mut(PLACES * channels.len() * c);
                let (m, tiles) = rest.split_at_mut(PLACES * channels.len() * width);
                kernel.transform(&channels, u);
                for (place, m) in m.chunks_mut(channels.len() * width).enumerate() {
                    let u = Matrix::new(&u[place * channels.len() * c..], channels.len(), c);
                    let v = Matrix::strided(&v[place * c * padded + first_tile..], c, width, padded);
                    matmul(m, Out::Replace, 1.0, u, v, Threads::One);
                }
                vectorized(
                    #[inline(always)]
                    || {
                        for (index, channel) in channels.clone().enumerate() {
                            transform_output(m, channels.len(), index, bias.map_or(0.0, |b| b[channel]), tiles);
                            for (item, (_, rows, first)) in self.runs(&part).enumerate() {
                                self.place_output(tiles, first, rows, y[item * channels.len() + index]);
                            }
                        }
                    },
                );
            });
        });
    }

    /// Rows of tiles of the whole batch, in bands for `v` of `channels` channels.
    fn bands(&self, channels: usize) -> impl Iterator<Item = Range<usize>> {
        let rows = (BAND_VALUES / (PLACES * channels * self.columns)).max(LANES.div_ceil(self.columns));
        let all = self.b * self.rows;
        (0..all).step_by(rows).map(move |start| start..(start + rows).min(all))
    }

    /// Tiles of a band, and the length of a row that holds them, a multiple of [`LANES`].
    fn width(&self, band: &Range<usize>) -> (usize, usize) {
        let tiles = band.len() * self.columns;
        (tiles, tiles.next_multiple_of(LANES))
    }

    /// A band's items: which, its rows of tiles, and the place of their first tile in the band.
    fn runs(&self, band: &Range<usize>) -> impl Iterator<Item = (usize, Range<usize>, usize)> {
        let (rows, columns, start, end) = (self.rows, self.columns, band.start, band.end);
        (start / rows..end.div_ceil(rows)).map(move |item| {
            let (first, last) = (start.max(item * rows), end.min((item + 1) * rows));
            (item, first - item * rows..last - item * rows, (first - start) * columns)
        })
    }

    /// Fills `v`, (16, channels, padded), with B^T d B of the band's tiles.
    fn transform_input(&self, x: &[f32], band: &Range<usize>, v: &mut [f32]) {
        let (tiles, padded) = self.width(band);
        let plane = self.h * self.w;
        let channels = v.len() / (PLACES * padded);
        // See `transform_run`; a picture has no more rows of tiles in the band than that.
        let most = band.len().min(self.rows) + 1;
        rows_of_places(v, padded).into_par_iter().enumerate().for_each(|(channel, mut v)| {
            with_buffer(8 * (most * self.columns + LANES), |d| {
                vectorized(
                    #[inline(always)]
                    || {
                        for (item, rows, first) in self.runs(band) {
                            let x = &x[(item * channels + channel) * plane..][..plane];
                            self.transform_run(x, rows, d, &mut v, first);
                        }
                    },
                );
            });
            v.iter_mut().for_each(|v| v[tiles..].fill(0.0));
        });
    }

    /// B^T d B of some rows of tiles of one picture of one channel, to `first` in each row of `v`.
    #[inline(always)]
    fn transform_run(&self, x: &[f32], rows: Range<usize>, d: &mut [f32], v: &mut [&mut [f32]; PLACES], first: usize) {
        // Column j of every tile, for the even and the odd rows of the picture apart: then row i of neighboring
        // tiles lies in a row too, at i / 2 rows of tiles from the first.
        let tiles = rows.len() * self.columns;
        let size = tiles + self.columns + LANES;
        let d = &mut d[..8 * size];
        let (start, pairs) = (2 * rows.start, rows.len() + 1);
        for (parity, half) in d.chunks_mut(4 * size).enumerate() {
            let mut columns = half.chunks_mut(size);
            let [d0, d1, d2, d3] = from_fn(|_| &mut columns.next().expect("four columns")[..pairs * self.columns]);
            let targets = d0.chunks_mut(self.columns).zip(d1.chunks_mut(self.columns));
            let targets = targets.zip(d2.chunks_mut(self.columns).zip(d3.chunks_mut(self.columns)));
            for (pair, ((d0, d1), (d2, d3))) in targets.enumerate() {
                match (start + 2 * pair + parity).checked_sub(1).filter(|&row| row < self.h) {
                    Some(row) => columns_of_tiles(&x[row * self.w..][..self.w], [d0, d1, d2, d3]),
                    None => [d0, d1, d2, d3].into_iter().for_each(|d| d.fill(0.0)),
                }
            }
        }
        for tile in (0..tiles).step_by(LANES) {
            let d = places(
                #[inline(always)]
                |row, column| lanes(&d[(row % 2 * 4 + column) * size + row / 2 * self.columns + tile..], LANES),
            );
            let transformed = on_both_sides(&d, times_b_t);
            let len = LANES.min(tiles - tile);
            for (place, v) in v.iter_mut().enumerate() {
                store(&transformed[place / 4][place % 4], &mut v[first + tile..], len);
            }
        }
    }

    /// Fills `dm`, (16, tiles, channels), with A dy A^T of the band's tiles.
    fn transform_gradient(&self, dy: &[f32], band: &Range<usize>, dm: &mut [f32]) {
        let (tiles, _) = self.width(band);
        let plane = self.h * self.w;
        let channels = dm.len() / (PLACES * tiles);
        // A task has one row of tiles.
        let tasks = rows_of_places(dm, self.columns * channels);
        tasks.into_par_iter().zip(band.clone()).for_each(|(mut dm, row)| {
            let (item, top) = (row / self.rows, row % self.rows * 2);
            let dy = &dy[item * channels * plane..][..channels * plane];
            vectorized(
                #[inline(always)]
                || {
                    for channel in (0..channels).step_by(LANES) {
                        let len = LANES.min(channels - channel);
                        for column in 0..self.columns {
                            let mut tile = [[[0.0; LANES]; 2]; 2];
                            for (y, tile) in tile.iter_mut().enumerate().take(self.h - top) {
                                for (x, lanes) in tile.iter_mut().enumerate().take(self.w - 2 * column) {
                                    let at = (top + y) * self.w + 2 * column + x;
                                    let planes = dy.chunks_exact(plane).skip(channel);
                                    lanes.iter_mut().zip(planes).for_each(|(lane, dy)| *lane = dy[at]);
                                }
                            }
                            let transformed = on_both_sides(&tile, times_a);
                            for (place, dm) in dm.iter_mut().enumerate() {
                                store(&transformed[place / 4][place % 4], &mut dm[column * channels + channel..], len);
                            }
                        }
                    }
                },
            );
        });
    }

    /// Puts the four places of each output tile, from `first` on, where they belong; `y` is what is under these rows of
    /// tiles.
    #[inline(always)]
    fn place_output(&self, tiles: &[f32], first: usize, rows: Range<usize>, y: &mut [f32]) {
        let padded = tiles.len() / 4;
        for (index, row) in rows.enumerate() {
            let at = first + index * self.columns;
            for (below, tiles) in tiles.chunks_exact(2 * padded).enumerate().take(self.h - 2 * row) {
                let (left, right) = (&tiles[at..][..self.columns], &tiles[padded + at..][..self.columns]);
                let y = &mut y[(2 * index + below) * self.w..][..self.w];
                let (pairs, odd) = y.as_chunks_mut::<2>();
                for ((y, left), right) in pairs.iter_mut().zip(left).zip(right) {
                    *y = [*left, *right];
                }
                if let [last] = odd {
                    *last = left[self.columns - 1];
                }
            }
        }
    }
}

impl Kernel<'_> {
    /// Fills `u`, (16, rows, columns), with G g G^T of some rows.
    fn transform(&self, rows: &Range<usize>, u: &mut [f32]) {
        // Of the weights: rows that follow each other, or a piece of each row.
        let (all, pieces) = match self.direction {
            Direction::Forward => (self.columns, rows.start..rows.start + 1),
            Direction::Backward => (self.rows, 0..self.columns),
        };
        let (first, length) = match self.direction {
            Direction::Forward => (0, rows.len() * self.columns),
            Direction::Backward => (rows.start, rows.len()),
        };
        if let Numbers::F32(weight) = self.weight {
            let weight = &weight[9 * (pieces.start * all + first)..];
            return vectorized(
                #[inline(always)]
                || self.transform_f32(weight, all, rows.len(), u),
            );
        }
        with_buffer(9 * pieces.len() * length, |weight| {
            for (piece, out) in pieces.zip(weight.chunks_mut(9 * length)) {
                let start = 9 * (piece * all + first);
                self.weight.part(start..start + out.len()).widen(out);
            }
            let all = if self.direction == Direction::Forward { all } else { length };
            vectorized(
                #[inline(always)]
                || self.transform_f32(weight, all, rows.len(), u),
            );
        });
    }

    /// The same of `rows` rows that begin with `weight`, whose own rows have `all` kernels each.
    #[inline(always)]
    fn transform_f32(&self, weight: &[f32], all: usize, rows: usize, u: &mut [f32]) {
        let place_size = rows * self.columns;
        for row in 0..rows {
            for column in (0..self.columns).step_by(LANES) {
                let len = LANES.min(self.columns - column);
                let mut g = [[[0.0; LANES]; 3]; 3];
                let pairs = (column..column + len).map(|column| match self.direction {
                    Direction::Forward => row * all + column,
                    Direction::Backward => column * all + row,
                });
                for (lane, pair) in pairs.enumerate() {
                    let taps: &[f32; 9] = weight[pair * 9..].first_chunk().expect("nine taps");
                    for (tap, value) in taps.iter().enumerate() {
                        let tap = if self.direction == Direction::Forward { tap } else { 8 - tap };
                        g[tap / 3][tap % 3][lane] = *value;
                    }
                }
                let transformed = on_both_sides(&g, times_g);
                for (place, u) in u.chunks_exact_mut(place_size).enumerate() {
                    store(&transformed[place / 4][place % 4], &mut u[row * self.columns + column..], len);
                }
            }
        }
    }
}

/// Rows of `row` elements of (16, ...), each with what belongs to it in all places.
fn rows_of_places(values: &mut [f32], row: usize) -> Vec<[&mut [f32]; PLACES]> {
    let rows = values.len() / (PLACES * row);
    let mut places: Vec<_> = values.chunks_mut(rows * row).map(|place| place.chunks_mut(row)).collect();
    (0..rows).map(|_| from_fn(|place| places[place].next().expect("as many rows in each place"))).collect()
}

/// What comes from the tiles of `v`, (16, c, padded), and `dm`, (16, tiles, o), to `dw`, (o, c, 9).
fn band_weight_gradient(dw: &mut [f32], mode: Out, v: &[f32], dm: &[f32], [tiles, c, o]: [usize; 3]) {
    let padded = v.len() / (PLACES * c);
    // Each task has some of the channels of x, and from every row of dw the piece that belongs to them.
    let mut tasks: Vec<Vec<&mut [f32]>> = (0..c.div_ceil(CHANNELS)).map(|_| Vec::with_capacity(o)).collect();
    for row in dw.chunks_mut(c * 9) {
        row.chunks_mut(CHANNELS * 9).zip(&mut tasks).for_each(|(piece, task)| task.push(piece));
    }
    tasks.into_par_iter().enumerate().for_each(|(task, mut dw)| {
        let channels = task * CHANNELS..c.min((task + 1) * CHANNELS);
        with_buffer(PLACES * channels.len() * o, |du| {
            for (place, du) in du.chunks_mut(channels.len() * o).enumerate() {
                let v = Matrix::strided(&v[(place * c + channels.start) * padded..], channels.len(), tiles, padded);
                let dm = Matrix::new(&dm[place * tiles * o..], tiles, o);
                matmul(du, Out::Replace, 1.0, v, dm, Threads::One);
            }
            vectorized(
                #[inline(always)]
                || transform_kernel_gradient(du, o, channels.len(), &mut dw, mode),
            );
        });
    });
}

/// A^T m A of one of the channels of `m`, (16, channels, padded), plus `bias`: `tiles`, (4, padded).
#[inline(always)]
fn transform_output(m: &[f32], channels: usize, channel: usize, bias: f32, tiles: &mut [f32]) {
    let padded = tiles.len() / 4;
    for tile in (0..padded).step_by(LANES) {
        let m = places(
            #[inline(always)]
            |row, column| lanes(&m[((row * 4 + column) * channels + channel) * padded + tile..], LANES),
        );
        let transformed = on_both_sides(&m, times_a_t);
        for (place, tiles) in tiles.chunks_exact_mut(padded).enumerate() {
            let target = &mut tiles[tile..][..LANES];
            target.iter_mut().zip(transformed[place / 2][place % 2]).for_each(|(y, value)| *y = value + bias);
        }
    }
}

/// G^T du G to `dw`, a row (channels, 9) for each of `o` channels; `du`: (16, channels, o).
#[inline(always)]
fn transform_kernel_gradient(du: &[f32], o: usize, channels: usize, dw: &mut [&mut [f32]], mode: Out) {
    for (block, dw) in dw.chunks_mut(LANES).enumerate() {
        for channel in 0..channels {
            let at = |place: usize| (place * channels + channel) * o + block * LANES;
            let du = places(
                #[inline(always)]
                |row, column| lanes(&du[at(row * 4 + column)..], dw.len()),
            );
            let transformed = on_both_sides(&du, times_g_t);
            for (lane, dw) in dw.iter_mut().enumerate() {
                let taps: &mut [f32; 9] = dw[channel * 9..].first_chunk_mut().expect("nine taps");
                let before = if mode == Out::Add { *taps } else { [0.0; 9] };
                for (tap, value) in taps.iter_mut().enumerate() {
                    *value = before[tap] + transformed[tap / 3][tap % 3][lane];
                }
            }
        }
    }
}

/// Columns of the tiles over one row of a picture: tile t covers 2 t - 1 to 2 t + 2, with zeros around the picture.
#[inline(always)]
fn columns_of_tiles(x: &[f32], [d0, d1, d2, d3]: [&mut [f32]; 4]) {
    let (pairs, odd) = x.as_chunks::<2>();
    for ((d1, d2), pair) in d1.iter_mut().zip(d2.iter_mut()).zip(pairs) {
        [*d1, *d2] = *pair;
    }
    let last = d1.len() - 1;
    if let [value] = odd {
        (d1[last], d2[last]) = (*value, 0.0);
    }
    (d0[0], d3[last]) = (0.0, 0.0);
    d0[1..].copy_from_slice(&d2[..last]);
    d3[..last].copy_from_slice(&d1[1..]);
}

/// The first `len` elements, then zeros.
#[inline(always)]
fn lanes(values: &[f32], len: usize) -> Lanes {
    if let (LANES, Some(lanes)) = (len, values.first_chunk()) {
        return *lanes;
    }
    let mut lanes = [0.0; LANES];
    lanes.iter_mut().zip(&values[..len]).for_each(|(lane, value)| *lane = *value);
    lanes
}

/// The first `len` of `lanes` to the start of `values`.
#[inline(always)]
fn store(lanes: &Lanes, values: &mut [f32], len: usize) {
    match values.first_chunk_mut() {
        Some(values) if len == LANES => *values = *lanes,
        _ => values[..len].iter_mut().zip(lanes).for_each(|(value, lane)| *value = *lane),
    }
}

/// A tile of 4x4 whose places `f` of row and column gives.
#[inline(always)]
fn places(f: impl Fn(usize, usize) -> Lanes) -> [[Lanes; 4]; 4] {
    let mut tile = [[[0.0; LANES]; 4]; 4];
    for (row, values) in tile.iter_mut().enumerate() {
        for (column, value) in values.iter_mut().enumerate() {
            *value = f(row, column);
        }
    }
    tile
}

/// T x T^T for the matrix T that `times` multiplies with, of 16 tiles at a time.
#[inline(always)]
fn on_both_sides<const N: usize, const M: usize>(
    tiles: &[[Lanes; N]; N],
    times: impl Fn([f32; N]) -> [f32; M],
) -> [[Lanes; M]; M] {
    let mut result = [[[0.0; LANES]; M]; M];
    // One tile in each turn and nothing but plain numbers inside: this loop becomes vector instructions.
    for lane in 0..LANES {
        let mut half = [[0.0; N]; M];
        for row in 0..N {
            let mut values = [0.0; N];
            for column in 0..N {
                values[column] = tiles[row][column][lane];
            }
            let values = times(values);
            for column in 0..M {
                half[column][row] = values[column];
            }
        }
        for column in 0..M {
            let values = times(half[column]);
            for row in 0..M {
                result[row][column][lane] = values[row];
            }
        }
    }
    result
}

#[inline(always)]
fn times_b_t([a, b, c, d]: [f32; 4]) -> [f32; 4] {
    [a - c, b + c, c - b, b - d]
}

#[inline(always)]
fn times_g([a, b, c]: [f32; 3]) -> [f32; 4] {
    [a, 0.5 * (a + c + b), 0.5 * (a + c - b), c]
}

#[inline(always)]
fn times_a_t([a, b, c, d]: [f32; 4]) -> [f32; 2] {
    [a + b + c, b - c - d]
}

/// A, the transpose of A^T.
#[inline(always)]
fn times_a([a, b]: [f32; 2]) -> [f32; 4] {
    [a, a + b, a - b, -b]
}

/// G^T.
#[inline(always)]
fn times_g_t([a, b, c, d]: [f32; 4]) -> [f32; 3] {
    [a + 0.5 * (b + c), 0.5 * (b - c), 0.5 * (b + c) + d]
}
