//! The menu of a `grub.cfg`, read as a list: scripts are not evaluated (GNU GRUB manual, chapter 6).

use super::{Entry, Environment, MAX_ENTRIES};

/// Words of a line with GRUB's quoting: single quotes keep everything, double quotes all but `\`, a backslash the next byte.
fn words(line: &str) -> Vec<String> {
    let (mut all, mut word, mut open) = (Vec::new(), String::new(), false);
    let mut chars = line.chars();
    let mut quote = None;
    while let Some(char) = chars.next() {
        match (quote, char) {
            (None, '#') if !open => break,
            (None, ' ' | '\t' | ';') => {
                if open {
                    all.push(std::mem::take(&mut word));
                    open = false;
                }
            }
            (None, '\'' | '"') => (quote, open) = (Some(char), true),
            (Some(end), char) if char == end => quote = None,
            (None | Some('"'), '\\') => {
                word.extend(chars.next());
                open = true;
            }
            (_, char) => {
                word.push(char);
                open = true;
            }
        }
    }
    if open {
        all.push(word);
    }
    all
}

/// What a `{` opened.
#[derive(Debug)]
enum Block {
    /// Index into the list of entries.
    Entry(usize),
    /// A submenu: its own place, and how many items it has so far.
    Submenu(Vec<usize>, usize),
    /// A function or anything else.
    Other,
}

/// An entry and its place in the menu: `[1, 0]` is the first item of the second one.
#[derive(Debug)]
struct Placed {
    place: Vec<usize>,
    submenus: Vec<String>,
    entry: Entry,
}

/// Whether the menu also comes from boot loader entries.
pub(super) fn uses_loader_entries(text: &str) -> bool {
    text.lines()
        .any(|line| line.split_whitespace().next() == Some("blscfg"))
}

fn parse(text: &str) -> (Vec<Placed>, Vec<String>) {
    let mut entries: Vec<Placed> = Vec::new();
    let mut defaults = Vec::new();
    let mut blocks: Vec<Block> = Vec::new();
    let mut titles: Vec<String> = Vec::new();
    let mut top = 0;
    for line in text.lines() {
        let mut words = words(line.trim());
        let opens = words.last().is_some_and(|word| word == "{");
        let closes = words.first().is_some_and(|word| word == "}");
        if closes {
            if let Some(Block::Submenu(..)) = blocks.pop() {
                titles.pop();
            }
            continue;
        }
        if opens {
            words.pop();
        }
        let Some((command, arguments)) = words.split_first() else {
            continue;
        };
        match command.as_str() {
            "menuentry" | "submenu" if opens => {
                let (mut path, count) = blocks
                    .iter_mut()
                    .rev()
                    .find_map(|block| match block {
                        Block::Submenu(place, count) => Some((place.clone(), count)),
                        Block::Entry(_) | Block::Other => None,
                    })
                    .unwrap_or((Vec::new(), &mut top));
                path.push(*count);
                *count += 1;
                let title = arguments.first().cloned().unwrap_or_default();
                if command == "submenu" {
                    blocks.push(Block::Submenu(path, 0));
                    titles.push(title);
                    continue;
                }
                let id = arguments
                    .iter()
                    .position(|word| word == "--id" || word == "$menuentry_id_option")
                    .and_then(|at| arguments.get(at + 1))
                    .cloned()
                    .unwrap_or_default();
                if entries.len() >= MAX_ENTRIES {
                    break;
                }
                blocks.push(Block::Entry(entries.len()));
                entries.push(Placed {
                    place: path,
                    submenus: titles.clone(),
                    entry: Entry {
                        title,
                        id,
                        ..Entry::default()
                    },
                });
            }
            "set" => {
                if let Some(value) = arguments.first().and_then(|word| word.strip_prefix("default=")) {
                    defaults.push(value.to_owned());
                }
            }
            _ if opens => blocks.push(Block::Other),
            "linux" | "linux16" | "linuxefi" => {
                if let (Some(entry), Some((kernel, options))) =
                    (open_entry(&blocks, &mut entries), arguments.split_first())
                    && entry.kernel.is_empty()
                {
                    entry.kernel.clone_from(kernel);
                    entry.options = options.to_vec();
                }
            }
            "initrd" | "initrd16" | "initrdefi" => {
                if let Some(entry) = open_entry(&blocks, &mut entries)
                    && entry.initrds.is_empty()
                {
                    entry.initrds = arguments.to_vec();
                }
            }
            _ => {}
        }
    }
    entries.retain(|placed| !placed.entry.kernel.is_empty());
    (entries, defaults)
}

fn open_entry<'a>(blocks: &[Block], entries: &'a mut [Placed]) -> Option<&'a mut Entry> {
    let index = blocks.iter().rev().find_map(|block| match block {
        Block::Entry(index) => Some(*index),
        _ => None,
    })?;
    entries.get_mut(index).map(|placed| &mut placed.entry)
}

/// The entry that the menu starts by itself: `default` as a number, a path of numbers, a title or an id; else the first.
pub(super) fn choose(text: &str, environment: &Environment) -> Option<Entry> {
    let (mut entries, defaults) = parse(text);
    // The last one without a variable is what stands in the branch for an ordinary boot.
    let saved = |value: &String| {
        value
            .contains("saved_entry")
            .then(|| environment.get("saved_entry"))
            .flatten()
            .cloned()
    };
    let literal = |value: &String| (!value.contains('$')).then(|| value.clone());
    let default = defaults
        .iter()
        .find_map(saved)
        .or_else(|| defaults.iter().rev().find_map(literal))
        .unwrap_or_else(|| "0".to_owned());
    let wanted: Vec<&str> = default.split('>').collect();
    let numbers: Option<Vec<usize>> = wanted.iter().map(|part| part.trim().parse().ok()).collect();
    let index = match numbers {
        // A submenu named alone starts its first item.
        Some(numbers) => entries.iter().position(|placed| placed.place.starts_with(&numbers)),
        None => {
            let last = *wanted.last()?;
            let named = |placed: &Placed| placed.entry.title == last || placed.entry.id == last;
            let inside = |placed: &Placed| {
                wanted
                    .first()
                    .is_some_and(|first| placed.submenus.iter().any(|title| title == first))
            };
            entries
                .iter()
                .position(named)
                .or_else(|| entries.iter().position(inside))
        }
    };
    if entries.is_empty() {
        return None;
    }
    Some(entries.swap_remove(index.unwrap_or(0)).entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Debian's `update-grub` writes it, shortened.
    const DEBIAN: &str = r#"
if [ -s $prefix/grubenv ]; then
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
else
   set default="0"
fi
function gfxmode {
	set gfxpayload="${1}"
}
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-1' {
	insmod gzio
	if [ x$feature_platform_search_hint = xy ]; then
	  search --no-floppy --fs-uuid --set=root --hint-bios=hd0,msdos1  abc
	fi
	echo	'Loading Linux 6.1.0-9 ...'
	linux	/boot/vmlinuz-6.1.0-9-amd64 root=UUID=abc ro  quiet "a b" $vt_handoff
	initrd	/boot/ucode.img /boot/initrd.img-6.1.0-9-amd64
}
submenu 'Advanced options' $menuentry_id_option 'gnulinux-advanced-1' {
	menuentry 'Old' --id old {
		linux /boot/vmlinuz-5 root=/dev/sda1
		initrd /boot/initrd.img-5
	}
	menuentry 'Older' {
		linux /boot/vmlinuz-4 root=/dev/sda1
	}
}
menuentry 'Firmware' {
	fwsetup
}
menuentry "Other" {
	linux /vmlinuz-3
}
"#;

    fn kernel(text: &str, environment: &[(&str, &str)]) -> String {
        let environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        choose(text, &environment).map_or_else(String::new, |entry| entry.kernel)
    }

    #[test]
    fn debians_menu_gives_kernel_initrds_and_quoted_options() {
        let entry = choose(DEBIAN, &Environment::new()).expect("an entry");
        assert_eq!(entry.title, "Debian GNU/Linux");
        assert_eq!(entry.id, "gnulinux-simple-1");
        assert_eq!(entry.kernel, "/boot/vmlinuz-6.1.0-9-amd64");
        assert_eq!(entry.initrds, ["/boot/ucode.img", "/boot/initrd.img-6.1.0-9-amd64"]);
        assert_eq!(entry.options, ["root=UUID=abc", "ro", "quiet", "a b", "$vt_handoff"]);
    }

    #[test]
    fn the_default_is_followed_by_number_path_title_and_id() {
        let with = |default: &str| DEBIAN.replace("set default=\"0\"", &format!("set default=\"{default}\""));
        for (default, expected) in [
            ("1", "/boot/vmlinuz-5"),
            ("1>1", "/boot/vmlinuz-4"),
            ("3", "/vmlinuz-3"),
            ("Other", "/vmlinuz-3"),
            ("gnulinux-advanced-1>old", "/boot/vmlinuz-5"),
            ("Advanced options>Older", "/boot/vmlinuz-4"),
            ("nonsense", "/boot/vmlinuz-6.1.0-9-amd64"),
        ] {
            assert_eq!(kernel(&with(default), &[]), expected, "{default}");
        }
        let saved = with("${saved_entry}");
        assert_eq!(kernel(&saved, &[("saved_entry", "old")]), "/boot/vmlinuz-5");
        assert_eq!(kernel(&saved, &[]), "/boot/vmlinuz-6.1.0-9-amd64");
    }

    #[test]
    fn menus_without_kernels_and_broken_ones_give_nothing() {
        assert_eq!(choose("menuentry 'x' {\n fwsetup\n}\n}\n}", &Environment::new()), None);
        assert_eq!(choose("linux /vmlinuz", &Environment::new()), None);
        assert!(uses_loader_entries("insmod blscfg\nblscfg\n") && !uses_loader_entries(DEBIAN));
    }

    proptest::proptest! {
        #[test]
        fn random_menus_never_panic(text in "(menuentry|submenu|linux|set default=|[ '\"\\\\{}\n$>0-9a]){0,80}") {
            let _ = choose(&text, &Environment::new());
        }
    }
}
