//! Identity in its several notations: SMBIOS UUID, serial, generation id, MAC.
//!
//! `uuid.bios` lists 16 bytes in SMBIOS table order. QEMU, libvirt, Proxmox VE and KubeVirt take a UUID text and write its
//! first three fields little-endian into the table, so the text given to them has these fields swapped; then the table, and
//! with it what software in the guest reads, stays as it was under VMware.

/// 16 bytes from `42 2c 5e 1f 11 22 33 44-55 66 77 88 99 aa bb cc`. `None`: not 16 bytes in hex.
#[must_use]
pub fn parse_uuid_bytes(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !matches!(byte, b' ' | b'-')).collect();
    if digits.len() != 32 {
        return None;
    }
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// The UUID text for a KVM target: `1f5e2c42-2211-4433-5566-778899aabbcc` for the bytes `42 2c 5e 1f 11 22 33 44 …`.
#[must_use]
pub fn target_uuid(table: &[u8; 16]) -> String {
    uuid::Uuid::from_bytes_le(*table).hyphenated().to_string()
}

/// Generation id as guest memory, from the signed decimals `vm.genid` and `vm.genidX`.
#[must_use]
pub fn generation_id(low: &str, high: &str) -> Option<[u8; 16]> {
    // Some writers print the unsigned form.
    let number = |text: &str| -> Option<[u8; 8]> {
        let text = text.trim();
        text.parse::<i64>()
            .map(i64::to_le_bytes)
            .or_else(|_| text.parse::<u64>().map(u64::to_le_bytes))
            .ok()
    };
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number(low)?);
    bytes[8..].copy_from_slice(&number(high)?);
    (bytes != [0; 16]).then_some(bytes)
}

/// `00:50:56:aa:bb:cc` from any usual notation. `None`: not a MAC of one station (all zero, multicast, not hex).
#[must_use]
pub fn normal_mac(text: &str) -> Option<String> {
    let digits: String = text
        .chars()
        .filter(|c| !matches!(c, ':' | '-' | '.' | ' '))
        .collect::<String>()
        .to_ascii_lowercase();
    if digits.len() != 12 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) || digits == "000000000000" {
        return None;
    }
    if u8::from_str_radix(&digits[..2], 16).ok()? & 1 == 1 {
        return None;
    }
    let pairs: Vec<&str> = (0..6).map(|pair| &digits[pair * 2..pair * 2 + 2]).collect();
    Some(pairs.join(":"))
}

/// Is the MAC in one of the ranges that VMware hands out?
#[must_use]
pub fn is_vmware_mac(mac: &str) -> bool {
    mac.starts_with("00:50:56:") || mac.starts_with("00:0c:29:") || mac.starts_with("00:05:69:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_uuid_has_its_first_three_fields_swapped() {
        let bytes = parse_uuid_bytes("42 2c 5e 1f 11 22 33 44-55 66 77 88 99 aa bb cc").expect("16 bytes");
        assert_eq!(target_uuid(&bytes), "1f5e2c42-2211-4433-5566-778899aabbcc");
        assert_eq!(parse_uuid_bytes("42 2c"), None);
    }

    #[test]
    fn the_generation_id_is_the_one_that_qemu_and_virt_v2v_give() {
        let bytes = generation_id("-8536691797830587195", "-1723453263670062919").expect("numbers");
        assert_eq!(target_uuid(&bytes), "09512cc5-940a-8987-b950-f54f631015e8");
        assert_eq!(generation_id("0", "0"), None);
    }

    #[test]
    fn macs_are_normalised_and_impossible_ones_refused() {
        assert_eq!(normal_mac("00-50-56-AA-BB-CC").as_deref(), Some("00:50:56:aa:bb:cc"));
        assert_eq!(normal_mac("0050.56aa.bbcc").as_deref(), Some("00:50:56:aa:bb:cc"));
        for bad in [
            "",
            "00:00:00:00:00:00",
            "01:00:5e:00:00:01",
            "00:50:56:aa:bb",
            "00:50:56:aa:bb:zz",
        ] {
            assert_eq!(normal_mac(bad), None, "{bad}");
        }
    }
}
