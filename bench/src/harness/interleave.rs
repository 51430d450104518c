//! A B A B: two things in turn, so that drift of a shared host hits both alike.

use super::{Clock, Halt};
use crate::stats;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// Paired samples of two things.
#[derive(Debug, Clone, PartialEq)]
pub struct Interleaved {
    /// Values of A in the order taken.
    pub a: Vec<f64>,
    /// Values of B; `b[i]` was taken beside `a[i]`.
    pub b: Vec<f64>,
}

impl Interleaved {
    /// Median of the paired ratios B : A.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        let ratios: Vec<f64> = self.a.iter().zip(&self.b).map(|(a, b)| b / a).collect();
        stats::median(&ratios)
    }

    /// 95 % bootstrap interval of it.
    #[must_use]
    pub fn ratio_interval(&self) -> (f64, f64) {
        stats::ratio_interval_paired(&self.a, &self.b)
    }

    /// Two-sided p of Wilcoxon's signed-rank test.
    #[must_use]
    pub fn p(&self) -> f64 {
        stats::wilcoxon_signed_rank(&self.a, &self.b).1
    }
}

/// Runs both once as warm-up, then `pairs` pairs. Which one goes first changes with every pair.
///
/// # Errors
/// What a side says, or [`Halt::Cancelled`].
pub fn interleave(
    pairs: usize,
    a: &mut dyn FnMut() -> Result<f64, Halt>,
    b: &mut dyn FnMut() -> Result<f64, Halt>,
    cancel: &AtomicBool,
) -> Result<Interleaved, Halt> {
    a()?;
    b()?;
    let (a, b) = take_turns(pairs, a, b, cancel)?;
    Ok(Interleaved { a, b })
}

/// Runs `pairs` pairs of anything, A B, B A, A B ...: `a[i]` beside `b[i]`. No warm-up: each turn has its own.
///
/// # Errors
/// What a side says, or [`Halt::Cancelled`] in the caller's terms.
pub fn take_turns<T, E: From<Halt>>(
    pairs: usize,
    a: &mut dyn FnMut() -> Result<T, E>,
    b: &mut dyn FnMut() -> Result<T, E>,
    cancel: &AtomicBool,
) -> Result<(Vec<T>, Vec<T>), E> {
    let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        if cancel.load(Ordering::Relaxed) {
            return Err(Halt::Cancelled.into());
        }
        if pair % 2 == 0 {
            of_a.push(a()?);
            of_b.push(b()?);
        } else {
            of_b.push(b()?);
            of_a.push(a()?);
        }
    }
    Ok((of_a, of_b))
}

/// A side that is a command: its value is the wall time in seconds. Output is discarded; a failure is a skip.
pub fn command(program: &str, arguments: &[String]) -> impl FnMut() -> Result<f64, Halt> {
    let (program, arguments) = (program.to_owned(), arguments.to_vec());
    move || {
        let start = Clock::now();
        let mut command = Command::new(&program);
        command
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let status = command.status().map_err(|error| Halt::failed(&program, error))?;
        if !status.success() {
            return Err(Halt::Skip(format!("{program} ended with {status}")));
        }
        Ok(start.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::{Halt, command, interleave};
    use std::cell::RefCell;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn sides_take_turns_and_a_drift_that_hits_both_cancels_out() {
        let order = RefCell::new(String::new());
        let speed = RefCell::new(100.0);
        let mut side = |name: char, factor: f64| {
            order.borrow_mut().push(name);
            *speed.borrow_mut() *= 1.01;
            Ok(*speed.borrow() * factor)
        };
        let side = RefCell::new(&mut side);
        let mut a = || (side.borrow_mut())('a', 1.0);
        let mut b = || (side.borrow_mut())('b', 0.8);
        let found = interleave(6, &mut a, &mut b, &AtomicBool::new(false)).expect("it runs");
        assert_eq!(*order.borrow(), "ababbaabbaabba");
        assert!((found.ratio() - 0.8).abs() < 0.01, "{}", found.ratio());
        assert!(found.p() < 0.05);
    }

    #[test]
    fn a_failing_command_is_a_skip_that_names_it() {
        let found = command("/bin/false", &[])();
        assert!(matches!(found, Err(Halt::Skip(why)) if why.contains("/bin/false")));
        assert!(command("/bin/true", &[])().is_ok_and(|seconds| seconds > 0.0));
    }
}
