//! What the losses of a stage tell of it while it runs: whether it diverges. Knows no network.
#![forbid(unsafe_code)]

/// Losses whose mean is looked at: one alone jumps with the timestep that was drawn.
const WINDOW: usize = 16;

/// A mean so many times as high as before is no chance. With one timestep a step the means of the built-in model rise
/// to 1.5 times the first one, which changes nothing; at 35 times the learning rate of its preset they rise to 5 times,
/// and nothing is left of the network.
const RISE: f32 = 2.5;

/// A mean below this may still become a picture: a network that predicts nothing has 0.6 to 1, the variance of noise or
/// v.
const HIGH: f32 = 0.5;

/// One loss so many times as high as before, or as that of a network that predicts nothing, is not waited for others.
const EXPLOSION: f32 = 25.0;

/// The loss before and the loss now where a stage with these `losses` so far diverges; `None` as long as all may be
/// well. `before` are losses of the same network before the stage; without enough of them the stage's own first ones
/// tell.
pub fn diverged(before: &[f32], losses: &[f32]) -> Option<[f32; 2]> {
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
    let (last, earlier) = losses.split_last()?;
    let knows_before = before.len() >= WINDOW / 2;
    let before = match earlier.len() {
        _ if knows_before => mean(before),
        0 => *last,
        some => mean(&earlier[..some.min(WINDOW)]),
    };
    if !last.is_finite() || *last > EXPLOSION * before.max(1.0) {
        return Some([before, *last]);
    }
    let enough = if knows_before { WINDOW } else { 2 * WINDOW };
    let now = mean(&losses[losses.len().saturating_sub(WINDOW)..]);
    (losses.len() >= enough && now > (RISE * before).max(HIGH)).then_some([before, now])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As they jump with one timestep a step: `mean`, with a third and five thirds of it in turns.
    fn losses(steps: usize, mean: f32) -> Vec<f32> {
        (0..steps).map(|step| mean * [0.3, 1.0, 1.7, 1.0][step % 4]).collect()
    }

    #[test]
    fn a_rise_is_told_from_noise_and_from_an_untrained_network() {
        for mean in [0.02, 0.2, 0.5, 1.1, 3.0] {
            let steady = losses(200, mean);
            let falling: Vec<f32> = steady.iter().enumerate().map(|(i, loss)| loss / (1.0 + i as f32 / 50.0)).collect();
            for all in [&steady, &falling] {
                assert!((1..=200).all(|steps| diverged(&[], &all[..steps]).is_none()), "{mean}");
                assert!((1..=200).all(|steps| diverged(&losses(40, mean), &all[..steps]).is_none()), "{mean}");
            }
        }
        // A picture that is unlike all that the network knows, whose first timestep was an easy one.
        let unlike = [vec![0.1], losses(60, 1.1)].concat();
        assert!((1..=61).all(|steps| diverged(&[], &unlike[..steps]).is_none()));
        // 35 times the learning rate of the preset, as measured.
        let destroyed = [vec![0.24], losses(30, 0.97)].concat();
        let told = (1..=31).find(|&steps| diverged(&losses(40, 0.2), &destroyed[..steps]).is_some());
        assert_eq!(told, Some(16));
        // Late, in the middle of a good tuning.
        let late = [losses(100, 0.1), losses(20, 0.8)].concat();
        let told = (1..=120).find(|&steps| diverged(&losses(40, 0.2), &late[..steps]).is_some()).expect("it is told");
        assert!((105..=116).contains(&told), "{told}");
    }

    #[test]
    fn an_explosion_is_told_at_once() {
        let [before, now] = diverged(&losses(40, 0.22), &[0.2, 0.3, 108.0]).expect("it is told");
        assert!((before - 0.22).abs() < 1e-3 && now == 108.0);
        assert!(diverged(&[], &[0.2, f32::NAN]).is_some());
        assert!(diverged(&[], &[f32::INFINITY]).is_some());
        assert!(diverged(&[], &[]).is_none());
    }
}
