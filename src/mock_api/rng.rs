//! Random numbers from a seed, and what is drawn with them.

/// xoshiro256**, the same on every machine.
#[derive(Debug)]
pub(super) struct Rng([u64; 4]);

impl Rng {
    /// A generator whose state is drawn from `seed` by splitmix64.
    pub(super) fn new(mut seed: u64) -> Self {
        Rng(std::array::from_fn(|_| {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }))
    }

    pub(super) fn next(&mut self) -> u64 {
        let s = &mut self.0;
        let out = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }

    /// A number below `n`; 0 for 0.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in one of `n` cases.
    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A number from 0 (included) to 1 (excluded).
    pub(super) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// One of the names in `list`, which are separated by `|`.
    pub(super) fn pick(&mut self, list: &'static str) -> &'static str {
        let bars = memchr::memchr_iter(b'|', list.as_bytes());
        let n = self.below(bars.clone().count() as u64 + 1) as usize;
        let from = match n.checked_sub(1) {
            None => 0,
            Some(before) => bars.clone().nth(before).map_or(0, |bar| bar + 1),
        };
        let rest = &list[from..];
        rest.split_once('|').map_or(rest, |(name, _)| name)
    }

    /// `pattern` with digits for `#`, capital letters for `@`, hexadecimal digits for `%` and letters or digits for `*`.
    pub(super) fn fill(&mut self, pattern: &str) -> String {
        const ALNUM: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let mut one = |set: &[u8]| char::from(set[self.below(set.len() as u64) as usize]);
        pattern
            .chars()
            .map(|c| match c {
                '#' => one(&ALNUM[..10]),
                '%' => one(&ALNUM[..16]),
                '@' => one(&ALNUM[36..]),
                '*' => one(ALNUM),
                c => c,
            })
            .collect()
    }
}
