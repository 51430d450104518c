//! What runs in the guest and needs its owner for the move.

use super::super::{Check, Inside, inside};
use super::inside::{joined, systems};
use reports::schema::Severity::Warn;

/// Services that begin with one of `names` and may start.
fn running(s: &Inside<'_>, names: &[&str]) -> Vec<String> {
    systems(s, |system| {
        joined(
            system
                .services
                .iter()
                .filter(|(name, start)| {
                    let name = name.to_ascii_lowercase();
                    start.as_str() != "disabled" && names.iter().any(|known| name.starts_with(known))
                })
                .map(|(name, start)| format!("{name} ({start})"))
                .collect(),
        )
    })
}

pub(super) const CHECKS: &[Check] = &[
    inside(
        "workload.wsfc",
        Warn,
        "the service of a Windows failover cluster",
        "Shared disks, addresses that move between guests (anti-spoofing drops their ARP), and a quorum that counts members.",
        "Follow the cluster's own procedure: evict, move, and join again.",
        |s| running(s, &["clussvc"]),
    ),
    inside(
        "workload.ad-dc",
        Warn,
        "the service of an Active Directory domain controller",
        "A copy that starts beside its original, or from an old state, damages the directory.",
        "Never start both. See that another domain controller is well, and that the generation id is kept.",
        |s| running(s, &["ntds"]),
    ),
    inside(
        "workload.database",
        Warn,
        "a database or mail server that starts by itself",
        "A copy of the running guest is what a power failure would have left of its files.",
        "Shut the guest down for the copy, or stop the service before it.",
        |s| {
            running(
                s,
                &[
                    "mssqlserver",
                    "mssql$",
                    "mssql-server",
                    "msexchangeis",
                    "oracle",
                    "postgresql",
                    "mysql",
                    "mariadb",
                    "mongo",
                    "db2",
                ],
            )
        },
    ),
    inside(
        "workload.license-bound",
        Warn,
        "a licence server",
        "Licences hang on the machine's UUID, MAC or disk serial. These are kept where the target can.",
        "Have its maker's procedure for a move at hand, and check it after the first start.",
        |s| {
            running(
                s,
                &[
                    "flexnet licensing",
                    "flexlm",
                    "hasplms",
                    "aksusbd",
                    "codemeter",
                    "sentinelprotectionserver",
                    "lmgrd",
                ],
            )
        },
    ),
];
