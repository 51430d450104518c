//! Programs of the host's own packages that the appliance takes along: `lvm` for logical volumes, `cryptsetup` for LUKS, each with its
//! shared libraries. The appliance works without them; volumes of that kind then stay closed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

/// Name, places, and the Debian package.
const PROGRAMS: [(&str, [&str; 2], &str); 2] = [
    ("lvm", ["/usr/sbin/lvm", "/sbin/lvm"], "lvm2"),
    (
        "cryptsetup",
        ["/usr/sbin/cryptsetup", "/sbin/cryptsetup"],
        "cryptsetup-bin",
    ),
];

/// A file of the host and its path in the appliance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostFile {
    pub(super) path: PathBuf,
    pub(super) inside: String,
}

impl HostFile {
    fn same(path: &str) -> Self {
        Self {
            path: PathBuf::from(path),
            inside: path.to_owned(),
        }
    }

    /// Changes when the package is updated.
    pub(super) fn mark(&self) -> String {
        let facts = self.path.metadata();
        let time = facts
            .as_ref()
            .ok()
            .and_then(|facts| facts.modified().ok()?.duration_since(UNIX_EPOCH).ok());
        format!("{} {} {:?}\n", self.inside, facts.map_or(0, |facts| facts.len()), time)
    }
}

fn place(places: &[&'static str; 2]) -> Option<&'static str> {
    places.iter().copied().find(|path| Path::new(path).is_file())
}

/// Programs that this host does not have, with the package that brings them.
pub(super) fn missing() -> Vec<(&'static str, &'static str)> {
    let absent = PROGRAMS.iter().filter(|(_, places, _)| place(places).is_none());
    absent.map(|(name, _, package)| (*name, *package)).collect()
}

/// All files of the programs that are there.
pub(super) fn found() -> Vec<HostFile> {
    let mut files: Vec<HostFile> = Vec::new();
    let mut add = |file: HostFile| {
        if file.path.is_file() && !files.contains(&file) {
            files.push(file);
        }
    };
    for (name, places, _) in &PROGRAMS {
        let Some(path) = place(places) else { continue };
        // Without its libraries a program is of no use.
        let Some(libraries) = libraries(path) else { continue };
        add(HostFile {
            path: PathBuf::from(path),
            inside: format!("/usr/sbin/{name}"),
        });
        for library in libraries {
            if library.contains("/libc.so") {
                // glibc loads it by name when a thread ends, which Argon2's do.
                add(HostFile::same(&library.replace("/libc.so.6", "/libgcc_s.so.1")));
            }
            add(HostFile::same(&library));
        }
    }
    files
}

/// Libraries and loader of one of the host's own programs, by `ldd`.
fn libraries(program: &str) -> Option<Vec<String>> {
    let output = Command::new("ldd").arg(program).output().ok()?;
    output
        .status
        .success()
        .then(|| parse(&String::from_utf8_lossy(&output.stdout)))
}

/// `libaio.so.1 => /lib/x86_64-linux-gnu/libaio.so.1 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn parse(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            let line = line.trim();
            let path = line.split_once(" => ").map_or(line, |(_, path)| path);
            let path = path.split_whitespace().next()?;
            path.starts_with('/').then(|| path.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn libraries_and_loader_are_taken_and_the_vdso_is_not() {
        let text = "\tlinux-vdso.so.1 (0x1)\n\tlibaio.so.1 => /lib/libaio.so.1 (0x2)\n\tlibgone.so => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x3)\n";
        assert_eq!(parse(text), ["/lib/libaio.so.1", "/lib64/ld-linux-x86-64.so.2"]);
    }
}
