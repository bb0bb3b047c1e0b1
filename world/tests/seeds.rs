//! Schedules that once broke a promise, and what it was.

use world::Words;
use world::schedule::Schedule;

/// The generator may draw something else from a seed one day; a story then says what must not come back.
#[test]
fn schedules_that_once_broke_a_promise_keep_all_of_them() {
    let seeds = [
        (150, "an order that fits only a window out of reach was handed out and taken back for ever"),
        (
            1619,
            "the first uplink of an offered session was lost when two more joins came while it was collected",
        ),
        (1886, "the world itself: two transmissions in one microsecond"),
        (2381, "the wait for a payload took the window away it was asked for, for ever"),
        (3354, "the world itself: a state that is told again under its id"),
        (3652, "the world itself: a session that was older than a join before its own"),
        (3705, "an old session's uplink was lost when the next session was used while it was collected"),
        (7451, "a join whose commit took longer than anybody waited was in the log twice"),
        (10260, "an item whose outcome waited for the disk was told to be unknown too"),
        (10834, "the world itself: a repetition that is answered beside the frame it repeats"),
        (11380, "one slow answer of a gateway ruled RX1 out for ever"),
        (12116, "the world itself: another frame for a repetition after a refusal"),
        (14944, "a late copy of the first transmission was answered as one more repetition"),
        (19232, "the world itself: an old session's uplink between the next one's first and its commit"),
        (23651, "the world itself: a downlink that acknowledges a frame played back"),
        (
            46843,
            "a repetition and the frame it repeats came together, and one was answered on the other's channel",
        ),
        (60419, "a process that was held up answered a Join-Request twice"),
        (
            61010,
            "a network's own downlink that failed undid a confirmed one of the same number, and the device was not understood",
        ),
        (98895, "a late copy was answered as a repetition while the repetition itself was answered"),
        (
            108_101,
            "a copy was not told of because two frames shared one place among those that were verified last",
        ),
        (108_431, "the same as 98895, by one gateway"),
        (72852, "an item was told to be unknown by a server that had slept through its outcome"),
    ];
    for (seed, what) in seeds {
        let outcome = world::run(&Schedule::from_seed(seed), Words::HashOnly);
        assert!(outcome.violations.is_empty(), "seed {seed} ({what}): {:?}", outcome.violations);
    }
}
