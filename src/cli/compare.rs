//! `esxodus compare`: two records beside each other.

use super::bench::read;
use super::{Context, Outcome};
use anyhow::Context as _;
use anyhow::bail;
use bench::Trend;
use reports::schema::{Comparability, Comparison};
use std::path::PathBuf;

/// Compares two measurements metric by metric: ratio, 95 % interval, test, and a verdict in words; or shows several in a trend.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  esxodus compare before.json after.json
  esxodus compare before.json after.json --fail-on-regression 10
  esxodus compare --trend monday.json tuesday.json wednesday.json

Exit code 1: a regression above the bar was found. Records that cannot be compared (TCG with ESXi, other CPU models) end with 2
unless --force is given, which the result then says.")]
pub(crate) struct Args {
    /// The base (for example ESXi) and the candidate (for example KVM); with --trend any number of runs.
    #[arg(required = true, num_args = 1.., value_name = "FILE.json")]
    records: Vec<PathBuf>,
    /// Show every metric over all runs in time order, without verdicts.
    #[arg(long, conflicts_with_all = ["fail_on_regression", "force"])]
    trend: bool,
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
    if args.trend {
        return trend(context, args);
    }
    let [base_file, candidate_file] = &args.records[..] else {
        bail!(
            "{} file(s) given: a comparison needs two, the base and the candidate; --trend takes more",
            args.records.len()
        );
    };
    let (base, candidate) = (read(base_file)?, read(candidate_file)?);
    let options = bench::CompareOptions {
        force: args.force,
        ..bench::CompareOptions::default()
    };
    let mut comparison = bench::compare(&base, &candidate, &options)
        .context("the two records are not comparable; --force compares them all the same and says so")?;
    comparison.base.file = Some(base_file.display().to_string());
    comparison.candidate.file = Some(candidate_file.display().to_string());
    if let Comparability::Forced(reasons) = &comparison.comparability {
        eprintln!(
            "esxodus: WARNING: these records are NOT COMPARABLE, the figures below say nothing about the hypervisors: {}",
            reasons.join("; ")
        );
    }
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

fn trend(context: &Context, args: &Args) -> anyhow::Result<Outcome> {
    if args.records.len() < 2 {
        bail!("a trend needs at least two runs");
    }
    let records = args
        .records
        .iter()
        .map(|file| read(file))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let trends = bench::trend(&records);
    if trends.is_empty() {
        bail!("the runs have no metric in common");
    }
    let result = serde_json::json!({ "trends": trends });
    if let Some(output) = &args.output {
        crate::chain::write_record(output, &result)?;
    }
    context.print(&result, || trend_text(&trends))?;
    Ok(Outcome::Good)
}

fn trend_text(trends: &[Trend]) -> String {
    let rows = trends.iter().map(|trend| {
        let medians: Vec<String> = trend
            .points
            .iter()
            .map(|point| format!("{:.4}{}", point.median, if point.unfit { " (unfit)" } else { "" }))
            .collect();
        let arrow = match trend.better {
            reports::schema::Better::Higher => "higher is better",
            reports::schema::Better::Lower => "lower is better",
        };
        vec![
            trend.id.clone(),
            medians.join(" → "),
            format!("{} ({arrow})", trend.unit),
            format!("{:.3}", trend.ratio),
            if trend.like {
                ""
            } else {
                "NOT ALIKE: method, CPU model or accelerator changed"
            }
            .to_owned(),
        ]
    });
    crate::terminal::table(&["metric", "medians in time order", "unit", "last : first", ""], rows).to_string()
}

pub(crate) fn text(comparison: &Comparison) -> String {
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
