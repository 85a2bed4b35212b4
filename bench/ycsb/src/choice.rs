//! What decides an operation: random numbers from a seed, and YCSB's scrambled Zipfian distribution.

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is small: the bias is of no account.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

/// FNV-1a of the eight bytes of `value`, the lowest first: what YCSB calls `FNVhash64`.
pub(crate) fn hash(value: u64) -> u64 {
    value
        .to_le_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
}

/// Ranks 0 to N - 1, where rank k comes up in proportion to 1 / (k + 1)^0.99.
#[derive(Debug)]
pub(crate) struct Zipf<const N: usize> {
    /// The sum of the weights up to each rank, with 40 bits behind the point.
    sums: [u64; N],
}

impl<const N: usize> Zipf<N> {
    pub(crate) fn new() -> Self {
        let mut sums = [0; N];
        let (mut sum, mut logarithm) = (0, 0.0);
        for (index, entry) in sums.iter_mut().enumerate() {
            let number = index as f64 + 1.0;
            if index > 0 {
                logarithm += step(number);
            }
            // n^-0.99 = n^0.01 / n
            let weight = exponential(0.01 * logarithm) / number;
            sum += (weight * (1_u64 << 40) as f64) as u64;
            *entry = sum;
        }
        Self { sums }
    }

    fn rank(&self, random: &mut Random) -> u64 {
        let all = self.sums.last().copied().unwrap_or(0);
        let point = random.below(all);
        self.sums.partition_point(|sum| *sum <= point) as u64
    }

    /// A record: the ranks, scattered over all of them, as YCSB does, so that the popular ones are no neighbours.
    pub(crate) fn record(&self, random: &mut Random) -> u64 {
        hash(self.rank(random)) % N.max(1) as u64
    }
}

/// ln(n) - ln(n - 1), by the series of 2 artanh(1 / (2n - 1)): there is no mathematics in `core`.
fn step(n: f64) -> f64 {
    let x = 1.0 / (2.0 * n - 1.0);
    let (mut sum, mut power, mut divisor) = (0.0, x, 1.0);
    for _ in 0..24 {
        sum += power / divisor;
        power *= x * x;
        divisor += 2.0;
    }
    2.0 * sum
}

/// e^x for x below 0.1.
fn exponential(x: f64) -> f64 {
    let (mut sum, mut term, mut number) = (1.0, 1.0, 1.0);
    for _ in 0..12 {
        term *= x / number;
        sum += term;
        number += 1.0;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_those_of_the_distribution() {
        let zipf = Zipf::<1000>::new();
        let mut before = 0;
        for (index, sum) in zipf.sums.iter().enumerate() {
            let weight = (sum - before) as f64 / (1_u64 << 40) as f64;
            let want = (index as f64 + 1.0).powf(-0.99);
            assert!((weight - want).abs() < 1e-9, "{index}: {weight} {want}");
            before = *sum;
        }
    }

    #[test]
    fn ranks_come_up_as_often_as_they_weigh() {
        let zipf = Zipf::<1000>::new();
        let mut random = Random::new(1);
        let mut counts = [0_u32; 1000];
        for _ in 0..100_000 {
            counts[zipf.rank(&mut random) as usize] += 1;
        }
        let all = zipf.sums[999] as f64;
        let first = f64::from(counts[0]) / 1e5;
        assert!((first - zipf.sums[0] as f64 / all).abs() < 0.005, "{first}");
        let half: u32 = counts[..30].iter().sum();
        let want = zipf.sums[29] as f64 / all;
        assert!((f64::from(half) / 1e5 - want).abs() < 0.01, "{half} {want}");
    }

    #[test]
    fn a_seed_gives_the_same_records_each_time_and_all_exist() {
        let zipf = Zipf::<1000>::new();
        let records = |seed| {
            let mut random = Random::new(seed);
            [(); 100].map(|()| zipf.record(&mut random))
        };
        assert_eq!(records(1), records(1));
        assert_ne!(records(1), records(2));
        assert!(records(1).iter().all(|record| *record < 1000));
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        // The offset basis, multiplied eight times by the prime.
        let prime = 0x0000_0100_0000_01b3_u64;
        let zero = (0..8).fold(0xcbf2_9ce4_8422_2325_u64, |h, _| h.wrapping_mul(prime));
        assert_eq!(hash(0), zero);
        assert_ne!(hash(1), hash(1 << 8));
    }
}
