//! `esxodus compare`: two records beside each other.

use super::{Context, Outcome};
use anyhow::Context as _;
use reports::schema::{BenchRecord, Comparability, Comparison};
use std::path::{Path, PathBuf};

/// Compares two measurements metric by metric: ratio, 95 % interval, test, and a verdict in words.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  esxodus compare before.json after.json
  esxodus compare before.json after.json --fail-on-regression 10

Exit code 1: a regression above the bar was found. Records that cannot be compared (TCG with ESXi, other CPU models) end with 2
unless --force is given, which the result then says.")]
pub(crate) struct Args {
    /// The base, for example ESXi.
    base: PathBuf,
    /// The candidate, for example KVM.
    candidate: PathBuf,
    /// Exit with 1 when a metric is worse by more than this many percent.
    #[arg(long, value_name = "PCT")]
    fail_on_regression: Option<f64>,
    /// Compare what isn't comparable; the result says so loudly.
    #[arg(long)]
    force: bool,
    /// Write the comparison there.
    #[arg(short, long, value_name = "FILE.json")]
    output: Option<PathBuf>,
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<Outcome> {
    let (base, candidate) = (record(&args.base)?, record(&args.candidate)?);
    let options = bench::CompareOptions {
        force: args.force,
        ..bench::CompareOptions::default()
    };
    let mut comparison = bench::compare(&base, &candidate, &options)
        .context("the two records are not comparable; --force compares them all the same and says so")?;
    comparison.base.file = Some(args.base.display().to_string());
    comparison.candidate.file = Some(args.candidate.display().to_string());
    if let Some(output) = &args.output {
        crate::chain::write_record(output, &comparison)?;
    }
    let regressions = args
        .fail_on_regression
        .map(|percent| bench::regressions(&comparison, percent))
        .unwrap_or_default();
    let count = regressions.len();
    context.print(&comparison, || text(&comparison))?;
    if count > 0 {
        context.say(&format!(
            "{count} metrics are worse by more than {} %",
            args.fail_on_regression.unwrap_or_default()
        ));
        return Ok(Outcome::No);
    }
    Ok(Outcome::Good)
}

fn record(path: &Path) -> anyhow::Result<BenchRecord> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is no record of 'esxodus bench'", path.display()))
}

fn text(comparison: &Comparison) -> String {
    let mut text = format!(
        "{} (base) and {} (candidate)\n",
        comparison.base.label, comparison.candidate.label
    );
    match &comparison.comparability {
        Comparability::Yes => {}
        Comparability::WithReservations(reasons) => {
            text.push_str(&format!("with reservations: {}\n", reasons.join("; ")));
        }
        Comparability::Forced(reasons) => text.push_str(&format!("NOT COMPARABLE, forced: {}\n", reasons.join("; "))),
    }
    let rows = comparison.metrics.iter().map(|metric| {
        vec![
            metric.id.clone(),
            format!("{:.4} {}", metric.base_median, metric.unit),
            format!("{:.4} {}", metric.candidate_median, metric.unit),
            format!(
                "{:.3} ({:.3} … {:.3})",
                metric.ratio, metric.ratio_ci.0, metric.ratio_ci.1
            ),
            metric.words.clone(),
        ]
    });
    text.push_str(
        &crate::terminal::table(&["metric", "base", "candidate", "ratio (95 %)", "verdict"], rows).to_string(),
    );
    for (id, reason) in &comparison.left_out {
        text.push_str(&format!("\nleft out {id}: {reason}"));
    }
    text
}
