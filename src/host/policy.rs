//! What all hosts do alike: what is compared, how often it is looked, how long is waited. GIMP's dialogs read it and
//! `serve` tells it to Krita's; what they say is in `words`. Knows no host.
#![forbid(unsafe_code)]

use std::time::Duration;

/// Strengths (eta) that are compared: from the picture itself to more than the text asks for.
pub const STRENGTHS: [f64; 7] = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2];

/// Seeds that are compared: the chosen one and those after it.
///
/// Not random ones: the same button gives the same results, so that those which are there already are not computed
/// again, and somebody else gets them, too. For others there is [`NEW_SEED`].
pub const SEEDS: u32 = 6;

/// A new seed is below this: short enough to read, remember and type.
pub const NEW_SEEDS: u32 = 1_000_000;

/// How often an edit shows the picture as it forms.
pub const PREVIEWS: u32 = 3;

/// Longest side in pixels of a result that is only looked at.
pub const SHOWN_SIDE: u32 = 768;

/// An edit that takes at most so many seconds is made as soon as a strength or seed is chosen, only to be looked at.
pub const AT_ONCE: f32 = 3.0;

/// Time without another change of the settings after which their cost is asked for.
pub const PAUSE: Duration = Duration::from_millis(400);

/// Time between two looks at a running edit: short enough for a bar that moves smoothly.
pub const POLL: Duration = Duration::from_millis(50);

/// A dialog that opens reads headers of models that it does not know at most so long; the next one goes on from there.
pub const LOOKING: Duration = Duration::from_secs(1);

/// Losses jump with the timestep that was drawn; so many of them in a row are averaged for the curve.
pub const AVERAGED: usize = 25;

/// Results of a picture that are kept, so that one that was looked at becomes a layer without another edit.
pub const KEPT_RESULTS: usize = 32;

/// Edits that a document remembers; older ones go.
pub const REMEMBERED_RUNS: usize = 100;

/// Longest part of the target text in the name of a layer and in the list of earlier edits, in characters.
pub const NAME_LENGTH: usize = 60;

/// The seeds that are compared where `chosen` is in the field; the largest ones where nothing is after it.
pub fn seeds(chosen: u32) -> std::ops::Range<u32> {
    let first = chosen.min(crate::params::LARGEST_SEED + 1 - SEEDS);
    first..first + SEEDS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::LARGEST_SEED;

    #[test]
    fn compared_seeds_begin_with_the_chosen_one_and_end_with_the_largest_there_is() {
        assert_eq!(seeds(7), 7..13);
        assert_eq!(seeds(LARGEST_SEED).collect::<Vec<_>>().last(), Some(&LARGEST_SEED));
    }
}
