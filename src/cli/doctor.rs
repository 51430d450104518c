//! `esxodus doctor`: what this host can do.

use super::{Context, Outcome};
use runner::engine::{AccelWish, EngineWish};
use std::time::Duration;

/// Says what this host can do: how real its KVM is (measured), QEMU, firmware, the appliance, space.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  esxodus doctor
  esxodus doctor --fresh --json

KVM is run, not only opened: a tiny guest counts instructions per second in kernel and user mode and tries the instructions that
page-table KVMs refuse. The verdict decides which accelerator '--engine auto' takes.")]
pub(crate) struct Args {
    /// Probe again instead of using this boot's earlier result.
    #[arg(long)]
    fresh: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<Outcome> {
    let spinner = context.bars.spinner("probing KVM");
    let deadline = Duration::from_secs(5);
    let kvm = if args.fresh {
        runner::probe::probe_now(deadline)
    } else {
        runner::probe::probe(deadline)
    };
    spinner.finish_and_clear();
    let choice = runner::engine::choose(EngineWish::Auto, AccelWish::Auto, &kvm)?;
    let tools = runner::inventory();
    let host = bench::host::facts();
    let result = serde_json::json!({
        "kvm": kvm,
        "choice": { "engine": choice.engine.name(), "accelerator": choice.accelerator.name(), "class": choice.class, "reason": choice.reason },
        "tools": tools,
        "host": host,
    });
    let ready = tools.iter().all(|tool| tool.found.is_some() || tool.optional);
    context.print(&result, || {
        let mut text = format!(
            "Host       {}, {} CPUs, {}\n",
            host.cpu_model.as_deref().unwrap_or("unknown CPU"),
            host.cpus_online,
            crate::terminal::bytes(host.memory_bytes)
        );
        text.push_str(&format!("Kernel     {}\n", host.kernel.as_deref().unwrap_or("unknown")));
        text.push_str(&format!("KVM        {}: {}\n", class_name(kvm.class), kvm.sentence));
        if let Some(figures) = &kvm.figures {
            text.push_str(&format!(
                "           {:.3e} instructions/s in kernel mode",
                figures.kernel_insn_per_s
            ));
            if let Some(user) = figures.user_insn_per_s {
                text.push_str(&format!(", {user:.3e} in user mode"));
            }
            text.push_str(&format!(", an exit takes {} ns\n", figures.exit_ns));
            if !figures.refused.is_empty() {
                text.push_str(&format!(
                    "           refused in kernel mode: {}\n",
                    figures.refused.join(", ")
                ));
            }
        }
        if let Some(advice) = &kvm.advice {
            text.push_str(&format!("           {advice}\n"));
        }
        text.push_str(&format!("Guests     {}\n", choice.reason));
        for tool in &tools {
            let found = tool
                .found
                .clone()
                .unwrap_or_else(|| format!("MISSING. {}", tool.advice));
            text.push_str(&format!("{:<10} {found}\n", tool.name));
        }
        text
    })?;
    Ok(if ready { Outcome::Good } else { Outcome::No })
}

fn class_name(class: reports::schema::AcceleratorClass) -> String {
    serde_json::to_value(class)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}
