//! Boot Loader Specification entries, type 1 (UAPI group): one file a kernel, as Fedora and RHEL have them.

use super::files::Files;
use super::{Entry, Environment, MAX_CONFIG, MAX_ENTRIES};
use std::cmp::Ordering;

fn parse(name: &str, text: &str) -> Entry {
    let mut entry = Entry {
        id: name.trim_end_matches(".conf").to_owned(),
        ..Entry::default()
    };
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let Some((key, value)) = line.split_once(char::is_whitespace) else {
            continue;
        };
        let value = value.trim();
        let words = || value.split_whitespace().map(str::to_owned);
        match key {
            "title" => entry.title = value.to_owned(),
            "linux" => entry.kernel = value.to_owned(),
            // Variables here name early archives of the boot loader's own, such as $tuned_initrd.
            "initrd" => entry.initrds.extend(words().filter(|path| !path.starts_with('$'))),
            "options" => entry.options.extend(words()),
            _ => {}
        }
    }
    entry
}

/// The saved entry, else the one with the newest name; rescue kernels only where there is no other.
pub(super) fn choose(system: &dyn Files, folder: &str, environment: &Environment) -> Option<Entry> {
    let names = system.names(folder, MAX_ENTRIES);
    let entries = names.iter().filter(|name| name.ends_with(".conf")).filter_map(|name| {
        let text = system.text(&format!("{folder}/{name}"), MAX_CONFIG)?;
        Some(parse(name, &text))
    });
    pick(entries.filter(|entry| !entry.kernel.is_empty()).collect(), environment)
}

fn pick(mut entries: Vec<Entry>, environment: &Environment) -> Option<Entry> {
    if let Some(saved) = environment.get("saved_entry")
        && let Some(at) = entries.iter().position(|entry| entry.id == *saved)
    {
        return Some(entries.swap_remove(at));
    }
    entries.sort_by(|a, b| {
        let rescue = |entry: &Entry| entry.id.contains("rescue");
        rescue(b).cmp(&rescue(a)).then_with(|| version_order(&a.id, &b.id))
    });
    entries.pop()
}

/// Versions in names: runs of digits compare as numbers, everything else as text.
pub(super) fn version_order(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        match (a.is_empty(), b.is_empty()) {
            (true, true) => return Ordering::Equal,
            (true, false) => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            (false, false) => {}
        }
        let (left, a_rest) = run(a);
        let (right, b_rest) = run(b);
        let digits = |text: &str| text.starts_with(|char: char| char.is_ascii_digit());
        let order = if digits(left) && digits(right) {
            let (left, right) = (left.trim_start_matches('0'), right.trim_start_matches('0'));
            left.len().cmp(&right.len()).then_with(|| left.cmp(right))
        } else {
            left.cmp(right)
        };
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (a_rest, b_rest);
    }
}

/// The leading run of digits or of other characters, and the rest.
fn run(text: &str) -> (&str, &str) {
    let digit = text.starts_with(|char: char| char.is_ascii_digit());
    let end = text
        .find(|char: char| char.is_ascii_digit() != digit)
        .unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROCKY: &str = "title Rocky Linux (5.14.0-70.el9.x86_64) 9.0
version 5.14.0-70.el9.x86_64
linux /vmlinuz-5.14.0-70.el9.x86_64
initrd /initramfs-5.14.0-70.el9.x86_64.img $tuned_initrd
options root=/dev/mapper/rl-root ro crashkernel=1G $tuned_params
grub_users $grub_users
";

    #[test]
    fn an_entry_gives_its_files_and_options() {
        let entry = parse("abc-5.14.0-70.el9.x86_64.conf", ROCKY);
        assert_eq!(entry.id, "abc-5.14.0-70.el9.x86_64");
        assert_eq!(entry.kernel, "/vmlinuz-5.14.0-70.el9.x86_64");
        assert_eq!(entry.initrds, ["/initramfs-5.14.0-70.el9.x86_64.img"]);
        assert_eq!(
            entry.options,
            ["root=/dev/mapper/rl-root", "ro", "crashkernel=1G", "$tuned_params"]
        );
    }

    #[test]
    fn the_saved_entry_wins_then_the_newest_then_rescue() {
        let entry = |id: &str| Entry {
            id: id.to_owned(),
            kernel: "/k".to_owned(),
            ..Entry::default()
        };
        let all = || {
            ["m-5.14.0-70", "m-5.14.0-162", "m-0-rescue", "m-5.14.0-9"]
                .map(entry)
                .to_vec()
        };
        let none = Environment::new();
        assert_eq!(
            pick(all(), &none).map(|entry| entry.id).as_deref(),
            Some("m-5.14.0-162")
        );
        let saved = Environment::from([("saved_entry".to_owned(), "m-5.14.0-70".to_owned())]);
        assert_eq!(
            pick(all(), &saved).map(|entry| entry.id).as_deref(),
            Some("m-5.14.0-70")
        );
        let rescue = vec![entry("m-0-rescue")];
        assert_eq!(pick(rescue, &none).map(|entry| entry.id).as_deref(), Some("m-0-rescue"));
        assert_eq!(pick(Vec::new(), &none), None);
    }

    #[test]
    fn numbers_in_versions_compare_as_numbers() {
        assert_eq!(version_order("vmlinuz-6.1.0-9", "vmlinuz-6.1.0-10"), Ordering::Less);
        assert_eq!(version_order("a-007", "a-7"), Ordering::Equal);
        assert_eq!(version_order("a-1", "a-1.1"), Ordering::Less);
    }
}
