//! Words on a VGA text screen, for guests that have no serial console.

/// Columns of the text modes that firmware, boot loaders and kernels start in.
const COLUMNS: usize = 80;
/// Upper half of code page 437, the character set of VGA's own font.
const UPPER: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■ ";

fn character(code: u8) -> char {
    match code {
        0 => ' ',
        0x20..=0x7e => char::from(code),
        0x80.. => UPPER.chars().nth(usize::from(code) - 0x80).unwrap_or(' '),
        _ => '·',
    }
}

/// The lines in a VGA text memory (cells of character and attribute), `None` where it holds none: the screen is in graphics mode, blank, or
/// not there. What has scrolled off the visible part is among them as long as it stands in the memory. A line that fills its row is joined
/// with the next one, as the kernel wraps.
pub(crate) fn lines(memory: &[u8]) -> Option<Vec<String>> {
    let cells: Vec<(u8, u8)> = memory
        .as_chunks::<2>()
        .0
        .iter()
        .map(|&[code, attribute]| (code, attribute))
        .collect();
    let written = cells.iter().filter(|&&(code, _)| code != 0 && code != b' ').count();
    // Pixels read as cells are neither letters nor visible: a text screen has hardly any control codes and no black on black.
    let odd = |&&(code, attribute): &&(u8, u8)| {
        (1..0x20).contains(&code) || code == 0x7f || (code != 0 && code != b' ' && attribute & 0x0f == attribute >> 4)
    };
    if written == 0 || cells.iter().filter(odd).count() * 20 > written {
        return None;
    }
    let (mut lines, mut open) = (Vec::new(), false);
    for row in cells.chunks_exact(COLUMNS) {
        let text: String = row.iter().map(|&(code, _)| character(code)).collect();
        let full = row.last().is_some_and(|&(code, _)| code != 0 && code != b' ');
        match lines.last_mut() {
            Some(last) if open => {
                let last: &mut String = last;
                last.push_str(text.trim_end());
            }
            _ => lines.push(text.trim_end().to_owned()),
        }
        open = full;
    }
    lines.retain(|line| !line.trim().is_empty());
    Some(lines)
}

#[cfg(test)]
mod tests {
    use super::{UPPER, lines};

    fn memory(rows: &[&str]) -> Vec<u8> {
        let mut bytes = vec![0_u8; 32 << 10];
        for (index, text) in rows.iter().enumerate() {
            for column in 0..80 {
                let at = (index * 80 + column) * 2;
                bytes[at] = text.as_bytes().get(column).copied().unwrap_or(b' ');
                bytes[at + 1] = 7;
            }
        }
        bytes
    }

    #[test]
    fn a_text_screen_gives_its_lines_and_wrapped_ones_are_whole() {
        let long = format!("{}!", "k".repeat(79));
        let found = lines(&memory(&["GRUB loading.", "", &long, "rest of it", "login: "])).expect("text");
        assert_eq!(
            found,
            [
                "GRUB loading.".to_owned(),
                format!("{long}rest of it"),
                "login:".to_owned()
            ]
        );
    }

    #[test]
    fn pixels_and_a_blank_screen_are_no_text() {
        assert_eq!(lines(&vec![0; 32 << 10]), None);
        assert_eq!(lines(&memory(&["", " "])), None);
        let pixels: Vec<u8> = (0..32_u32 << 10)
            .map(|at| u8::try_from(at * 7 % 251).expect("below 251"))
            .collect();
        assert_eq!(lines(&pixels), None);
        assert_eq!(lines(&[]), None);
    }

    #[test]
    fn the_code_page_has_every_upper_code_once() {
        assert_eq!(UPPER.chars().count(), 128);
    }
}
