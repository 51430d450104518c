//! The 64-bit division instruction.
#![expect(unsafe_code, reason = "the compiler replaces it by a 32-bit division where it can")]

use std::num::NonZeroU64;

/// Remainder by the 64-bit `div`. LLVM's `%` for baseline x86-64 tests at run time whether both numbers fit into 32 bits and
/// then divides those, which is faster on many CPUs; gcc, which builds sysbench, does not.
#[inline(always)]
pub(crate) fn remainder(dividend: u64, divisor: NonZeroU64) -> u64 {
    let remainder;
    // SAFETY: `div` divides rdx:rax, here the dividend with an upper half of zero, by a number that is not zero: the quotient
    // fits into 64 bits, so that it cannot fault. It touches nothing but rax, rdx and the flags.
    unsafe {
        std::arch::asm!(
            "div {divisor}",
            divisor = in(reg) divisor.get(),
            inout("rax") dividend => _,
            inout("rdx") 0_u64 => remainder,
            options(pure, nomem, nostack),
        );
    }
    remainder
}

#[cfg(test)]
mod tests {
    use super::remainder;
    use std::num::NonZeroU64;

    #[test]
    fn it_is_the_remainder_for_small_and_large_numbers() {
        for (dividend, divisor) in [(7, 3), (u64::MAX, 10), (0, u64::MAX), (1 << 40, 1 << 33), (9_999, 101)] {
            let by = NonZeroU64::new(divisor).expect("not zero");
            assert_eq!(remainder(dividend, by), dividend % divisor);
        }
    }
}
