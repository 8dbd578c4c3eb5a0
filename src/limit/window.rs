//! A fixed window and the requests counted in it, in one word.
//!
//! Tyk: the in-memory bucket of the default limiter (`leakybucket/memorycache`), which is a window
//! that starts at its first use; and `enable_fixed_window_rate_limiter`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How a window's end and its count share a word: the end above, in ticks, the count below.
/// One word itself: milliseconds of the window above, bits of the count below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape(u64);

impl Shape {
    /// For counts up to `count_max`. A tick is a millisecond for counts below 2^24, and else at
    /// most 0.2 % of the time that so many requests take one node (2^24 a second are out of reach),
    /// so that ends up to 2^40 ms (34 years) find room. `per_ms` is below 2^58.
    pub(super) const fn new(count_max: u64, per_ms: u64) -> Self {
        let top = if count_max > COUNT_MAX {
            COUNT_MAX
        } else {
            count_max
        };
        // Threads that raced past the limit have counted, too.
        let bits = u64::BITS - (top + RACING_MAX).leading_zeros();
        let count_bits = if bits < COUNT_BITS_MIN {
            COUNT_BITS_MIN
        } else {
            bits
        };
        Self(per_ms << u64::BITS.ilog2() | count_bits as u64)
    }

    #[inline]
    pub(super) const fn per_ms(self) -> u64 {
        self.0 >> u64::BITS.ilog2()
    }

    #[inline]
    const fn count_bits(self) -> u32 {
        self.0 as u32 % u64::BITS
    }

    #[inline]
    const fn tick_shift(self) -> u32 {
        self.count_bits() - COUNT_BITS_MIN
    }

    #[inline]
    const fn split(self, word: u64) -> (u64, u64) {
        let count_bits = self.count_bits();
        (word >> count_bits, word & ((1 << count_bits) - 1))
    }
}

/// More than one node can serve in any window.
pub(super) const COUNT_MAX: u64 = 1 << 36;
const COUNT_BITS_MIN: u32 = 24;
const RACING_MAX: u64 = 1 << 12;

/// Zero means that no window is open.
#[derive(Debug, Default)]
pub(super) struct Window(AtomicU64);

impl Window {
    /// Counts one request if fewer than `max` were counted in the open window; a window that is
    /// opened by it ends `per_ms` from now.
    ///
    /// # Errors
    /// The time when the window ends.
    #[inline]
    pub(super) fn take(&self, shape: Shape, max: u64, now_ms: u64) -> Result<(), u64> {
        self.take_until(shape, max, now_ms, now_ms + shape.per_ms())
    }

    /// As [`Window::take`]; a window that is opened by it ends at `end_ms`.
    #[inline]
    pub(super) fn take_until(
        &self,
        shape: Shape,
        max: u64,
        now_ms: u64,
        end_ms: u64,
    ) -> Result<(), u64> {
        loop {
            let word = self.0.load(Relaxed);
            let (end, used) = shape.split(word);
            if now_ms < end << shape.tick_shift() {
                if used >= max {
                    return Err(end << shape.tick_shift());
                }
                // The word may be a later window by now: it counts there.
                let (end, used) = shape.split(self.0.fetch_add(1, Relaxed));
                return if used < max {
                    Ok(())
                } else {
                    Err(end << shape.tick_shift())
                };
            }
            let end = (end_ms + (1 << shape.tick_shift()) - 1) >> shape.tick_shift();
            let opened = end << shape.count_bits() | 1;
            if self
                .0
                .compare_exchange_weak(word, opened, Relaxed, Relaxed)
                .is_ok()
            {
                return Ok(());
            }
        }
    }

    #[inline]
    pub(super) fn warm(&self) {
        std::hint::black_box(self.0.load(Relaxed));
    }

    /// Requests counted in the window that is open now, refused ones that raced included.
    pub(super) fn used(&self, shape: Shape, now_ms: u64) -> u64 {
        let (end, used) = shape.split(self.0.load(Relaxed));
        if now_ms < end << shape.tick_shift() {
            used
        } else {
            0
        }
    }

    /// Takes so many requests out of the count, which somebody else counts now.
    pub(super) fn hand_over(&self, shape: Shape, count: u64) {
        let _ = self.0.fetch_update(Relaxed, Relaxed, |word| {
            let (_, used) = shape.split(word);
            Some(word - used.min(count))
        });
    }

    /// Closes the window.
    pub(super) fn close(&self) {
        self.0.store(0, Relaxed);
    }

    /// Whether nothing is remembered that still matters.
    pub(super) fn is_over(&self, shape: Shape, now_ms: u64) -> bool {
        now_ms >= self.0.load(Relaxed) >> shape.count_bits() << shape.tick_shift()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Barrier},
        thread,
    };

    use super::*;

    #[track_caller]
    fn check(max: u64, per_ms: u64, times_ms: &[u64], expected: &[Result<(), u64>]) {
        let shape = Shape::new(max, per_ms);
        let window = Window::default();
        let got: Vec<_> = times_ms
            .iter()
            .map(|&now_ms| window.take(shape, max, now_ms))
            .collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn a_window_starts_at_its_first_use_and_refills_at_its_end() {
        check(
            2,
            1000,
            &[5, 6, 7, 1004, 1005, 1006, 1007, 9000],
            &[
                Ok(()),
                Ok(()),
                Err(1005),
                Err(1005),
                Ok(()),
                Ok(()),
                Err(2005),
                Ok(()),
            ],
        );
        check(
            1,
            1000,
            &[0, 0, 999, 1000],
            &[Ok(()), Err(1000), Err(1000), Ok(())],
        );
    }

    #[test]
    fn a_reader_that_is_late_counts_in_the_window_that_is_open() {
        check(2, 1000, &[5000, 4000, 4001], &[Ok(()), Ok(()), Err(6000)]);
    }

    #[test]
    fn large_counts_fit_and_their_windows_stay_right_within_a_fifth_of_a_percent() {
        for (max, per_ms) in [
            (1 << 24, 1_000),
            (1_000_000_000, 86_400_000),
            (COUNT_MAX, 4_096_000),
            (u64::MAX, 5_000_000),
        ] {
            let shape = Shape::new(max, per_ms);
            let window = Window::default();
            let now_ms = 34 * 365 * 86_400_000;
            window.take(shape, 1, now_ms).unwrap();
            let end_ms = window.take(shape, 1, now_ms + per_ms - 1).unwrap_err();
            let late_ms = end_ms - (now_ms + per_ms);
            assert!(late_ms * 500 <= per_ms, "{max} {per_ms}: {late_ms}");
            assert_eq!(window.used(shape, now_ms), 1);
            assert!(window.is_over(shape, end_ms));
        }
    }

    #[test]
    fn what_was_counted_can_be_handed_over() {
        let shape = Shape::new(10, 1000);
        let window = Window::default();
        for _ in 0..3 {
            window.take(shape, 10, 1).unwrap();
        }
        assert_eq!(window.used(shape, 2), 3);
        window.hand_over(shape, 2);
        assert_eq!(window.used(shape, 2), 1);
        window.hand_over(shape, 2);
        assert_eq!(window.used(shape, 2), 0);
        assert_eq!(window.used(shape, 1001), 0);
    }

    #[test]
    fn threads_together_admit_exactly_the_limit_in_every_window() {
        const THREADS: usize = 4;
        let shape = Shape::new(1000, 50);
        let window = Arc::new(Window::default());
        let barrier = Arc::new(Barrier::new(THREADS));
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (window, barrier) = (Arc::clone(&window), Arc::clone(&barrier));
                thread::spawn(move || {
                    let mut admitted = vec![0_u64; 20];
                    // Everybody offers the limit in every window, in step with the others.
                    for (turn, admitted) in admitted.iter_mut().enumerate() {
                        barrier.wait();
                        for _ in 0..1000 {
                            let now_ms = 50 * turn as u64;
                            *admitted += u64::from(window.take(shape, 1000, now_ms).is_ok());
                        }
                        barrier.wait();
                    }
                    admitted
                })
            })
            .collect();
        let mut totals = vec![0; 20];
        for thread in threads {
            for (total, admitted) in totals.iter_mut().zip(thread.join().unwrap()) {
                *total += admitted;
            }
        }
        assert_eq!(totals, vec![1000; 20]);
    }
}
