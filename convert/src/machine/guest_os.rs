//! Guest OS ids: what `guestOS`, `vmw:osType` and OVF's CIM numbers mean.
//!
//! The API writes `windows8Server64Guest`, VMX `windows8srv-64`; both are brought to one spelling before the table is asked.

use super::{GuestOs, OsFamily};

/// A row: canonical spelling, title, Proxmox ostype, libosinfo id.
type Row = (&'static str, &'static str, &'static str, Option<&'static str>);

const WINDOWS: &[Row] = &[
    ("win31", "Windows 3.1", "other", None),
    ("win95", "Windows 95", "other", None),
    ("win98", "Windows 98", "other", None),
    ("winme", "Windows Me", "other", None),
    ("winnt", "Windows NT 4", "wxp", Some("http://microsoft.com/winnt/4.0")),
    (
        "win2000pro",
        "Windows 2000 Professional",
        "w2k",
        Some("http://microsoft.com/win/2k"),
    ),
    (
        "win2000serv",
        "Windows 2000 Server",
        "w2k",
        Some("http://microsoft.com/win/2k"),
    ),
    (
        "win2000advserv",
        "Windows 2000 Advanced Server",
        "w2k",
        Some("http://microsoft.com/win/2k"),
    ),
    (
        "winxphome",
        "Windows XP Home",
        "wxp",
        Some("http://microsoft.com/win/xp"),
    ),
    (
        "winxppro",
        "Windows XP Professional",
        "wxp",
        Some("http://microsoft.com/win/xp"),
    ),
    (
        "winnetstandard",
        "Windows Server 2003 Standard",
        "w2k3",
        Some("http://microsoft.com/win/2k3"),
    ),
    (
        "winnetenterprise",
        "Windows Server 2003 Enterprise",
        "w2k3",
        Some("http://microsoft.com/win/2k3"),
    ),
    (
        "winnetdatacenter",
        "Windows Server 2003 Datacenter",
        "w2k3",
        Some("http://microsoft.com/win/2k3"),
    ),
    (
        "winnetweb",
        "Windows Server 2003 Web",
        "w2k3",
        Some("http://microsoft.com/win/2k3"),
    ),
    (
        "winnetbusiness",
        "Windows Small Business Server 2003",
        "w2k3",
        Some("http://microsoft.com/win/2k3"),
    ),
    (
        "winvista",
        "Windows Vista",
        "wvista",
        Some("http://microsoft.com/win/vista"),
    ),
    (
        "winlonghorn",
        "Windows Server 2008",
        "w2k8",
        Some("http://microsoft.com/win/2k8"),
    ),
    (
        "longhorn",
        "Windows Server 2008",
        "w2k8",
        Some("http://microsoft.com/win/2k8"),
    ),
    ("windows7", "Windows 7", "win7", Some("http://microsoft.com/win/7")),
    (
        "windows7srv",
        "Windows Server 2008 R2",
        "win7",
        Some("http://microsoft.com/win/2k8r2"),
    ),
    (
        "windows8",
        "Windows 8 or 8.1",
        "win8",
        Some("http://microsoft.com/win/8"),
    ),
    (
        "windows8srv",
        "Windows Server 2012 or 2012 R2",
        "win8",
        Some("http://microsoft.com/win/2k12"),
    ),
    ("windows9", "Windows 10", "win10", Some("http://microsoft.com/win/10")),
    (
        "windows9srv",
        "Windows Server 2016",
        "win10",
        Some("http://microsoft.com/win/2k16"),
    ),
    (
        "windows2019srv",
        "Windows Server 2019",
        "win10",
        Some("http://microsoft.com/win/2k19"),
    ),
    (
        "windows2019srvnext",
        "Windows Server 2022",
        "win11",
        Some("http://microsoft.com/win/2k22"),
    ),
    ("windows2022srvnext", "Windows Server 2025", "win11", None),
    ("windows11", "Windows 11", "win11", Some("http://microsoft.com/win/11")),
    ("windows12", "Windows 12", "win11", None),
    // One id for every Hyper-V Server release: what it is really needs a look inside.
    ("windowshyperv", "Hyper-V Server", "win10", None),
    ("winhyperv", "Hyper-V Server", "win10", None),
];

/// Prefixes of everything else, longest first where one begins another; the title gets the rest of the id as version.
const OTHERS: &[(&str, &str, &str, OsFamily)] = &[
    ("other24xlinux", "Linux 2.4", "l24", OsFamily::Linux),
    ("other26xlinux", "Linux 2.6", "l26", OsFamily::Linux),
    ("other3xlinux", "Linux 3.x", "l26", OsFamily::Linux),
    ("other4xlinux", "Linux 4.x", "l26", OsFamily::Linux),
    ("other5xlinux", "Linux 5.x", "l26", OsFamily::Linux),
    ("other6xlinux", "Linux 6.x", "l26", OsFamily::Linux),
    ("other7xlinux", "Linux 7.x", "l26", OsFamily::Linux),
    ("otherlinux", "Linux", "l26", OsFamily::Linux),
    ("genericlinux", "Linux", "l26", OsFamily::Linux),
    ("linux", "Linux", "l26", OsFamily::Linux),
    ("rhel2", "Red Hat Enterprise Linux 2", "l24", OsFamily::Linux),
    ("rhel3", "Red Hat Enterprise Linux 3", "l24", OsFamily::Linux),
    ("rhel", "Red Hat Enterprise Linux", "l26", OsFamily::Linux),
    ("redhat", "Red Hat Linux", "l24", OsFamily::Linux),
    ("centos", "CentOS", "l26", OsFamily::Linux),
    ("rockylinux", "Rocky Linux", "l26", OsFamily::Linux),
    ("almalinux", "AlmaLinux", "l26", OsFamily::Linux),
    ("oraclelinux", "Oracle Linux", "l26", OsFamily::Linux),
    ("oracle", "Oracle Linux", "l26", OsFamily::Linux),
    ("sles", "SUSE Linux Enterprise Server", "l26", OsFamily::Linux),
    ("opensuse", "openSUSE", "l26", OsFamily::Linux),
    ("suse", "SUSE Linux", "l26", OsFamily::Linux),
    ("oes", "Open Enterprise Server", "l26", OsFamily::Linux),
    ("nld", "Novell Linux Desktop", "l26", OsFamily::Linux),
    ("sjds", "Sun Java Desktop", "l26", OsFamily::Linux),
    ("debian", "Debian", "l26", OsFamily::Linux),
    ("ubuntu", "Ubuntu", "l26", OsFamily::Linux),
    ("fedora", "Fedora", "l26", OsFamily::Linux),
    ("mandrake", "Mandrake", "l26", OsFamily::Linux),
    ("mandriva", "Mandriva", "l26", OsFamily::Linux),
    ("turbolinux", "Turbolinux", "l26", OsFamily::Linux),
    ("asianux", "Asianux", "l26", OsFamily::Linux),
    ("miraclelinux", "MIRACLE LINUX", "l26", OsFamily::Linux),
    ("pardus", "Pardus", "l26", OsFamily::Linux),
    ("kylinlinux", "Kylin", "l26", OsFamily::Linux),
    ("fusionos", "FusionOS", "l26", OsFamily::Linux),
    ("prolinux", "ProLinux", "l26", OsFamily::Linux),
    ("vmwarephoton", "VMware Photon OS", "l26", OsFamily::Linux),
    ("amazonlinux", "Amazon Linux", "l26", OsFamily::Linux),
    ("coreos", "CoreOS", "l26", OsFamily::Linux),
    ("crxpod", "CRX Pod", "l26", OsFamily::Linux),
    ("crxsys", "CRX", "l26", OsFamily::Linux),
    ("freebsd", "FreeBSD", "other", OsFamily::Other),
    ("solaris", "Solaris", "solaris", OsFamily::Other),
    ("darwin", "macOS", "other", OsFamily::Other),
    ("vmkernel", "VMware ESXi", "other", OsFamily::Other),
    ("netware", "NetWare", "other", OsFamily::Other),
    ("os2", "OS/2", "other", OsFamily::Other),
    ("openserver", "SCO OpenServer", "other", OsFamily::Other),
    ("unixware", "UnixWare", "other", OsFamily::Other),
    ("ecomstation", "eComStation", "other", OsFamily::Other),
    ("beos", "BeOS", "other", OsFamily::Other),
    ("eos", "eComStation", "other", OsFamily::Other),
    ("dos", "DOS", "other", OsFamily::Other),
    ("other", "Other", "other", OsFamily::Other),
];

/// One spelling of the API's and VMX's ids, and whether they say 64 bit.
fn canonical(declared: &str) -> (String, bool) {
    let mut name: String = declared
        .to_ascii_lowercase()
        .chars()
        .filter(|c| !matches!(c, '-' | '_' | '.' | ' '))
        .collect();
    if let Some(rest) = name.strip_suffix("guest") {
        name.truncate(rest.len());
    }
    let is_64bit = name.ends_with("64");
    if is_64bit {
        name.truncate(name.len() - 2);
    }
    if name.starts_with("windows") {
        name = name.replace("server", "srv");
    }
    (name, is_64bit)
}

/// What `declared` means. The flag is false where the id is in no table: then everything is a cautious guess.
#[must_use]
pub fn from_id(declared: &str) -> (GuestOs, bool) {
    let (name, is_64bit) = canonical(declared);
    let bits = |title: &str, is_64bit: bool| format!("{title} ({}-bit)", if is_64bit { 64 } else { 32 });
    if let Some((_, title, ostype, osinfo)) = WINDOWS.iter().find(|row| row.0 == name) {
        // Server releases from 2008 R2 on exist in 64 bit only, whatever the id leaves out.
        let is_64bit = is_64bit || name.contains("srv") || name.contains("hyperv");
        let os = GuestOs {
            declared: declared.to_owned(),
            family: OsFamily::Windows,
            is_64bit,
            title: bits(title, is_64bit),
            pve_ostype: (*ostype).to_owned(),
            osinfo_id: osinfo.map(str::to_owned),
        };
        return (os, true);
    }
    if let Some((prefix, title, ostype, family)) = OTHERS.iter().find(|row| name.starts_with(row.0)) {
        let version = name[prefix.len()..].trim_start_matches(|c: char| !c.is_ascii_digit());
        let title = if version.is_empty() || title.ends_with(|c: char| c.is_ascii_digit()) || title.ends_with(".x") {
            (*title).to_owned()
        } else {
            format!("{title} {version}")
        };
        let osinfo = match (*prefix, version) {
            ("debian", "9" | "10" | "11" | "12") => Some(format!("http://debian.org/debian/{version}")),
            ("rhel", "8" | "9") => Some(format!("http://redhat.com/rhel/{version}-unknown")),
            ("centos", "8") => Some("http://centos.org/centos/8".to_owned()),
            _ => None,
        };
        let os = GuestOs {
            declared: declared.to_owned(),
            family: *family,
            is_64bit,
            title: bits(&title, is_64bit),
            pve_ostype: (*ostype).to_owned(),
            osinfo_id: osinfo,
        };
        // A bare "other" is VMware's way to say unknown, but it is a known id.
        return (os, true);
    }
    let family = if name.starts_with("win") {
        OsFamily::Windows
    } else if name.contains("linux") {
        OsFamily::Linux
    } else {
        OsFamily::Other
    };
    let os = GuestOs {
        declared: declared.to_owned(),
        family,
        is_64bit,
        title: if declared.is_empty() { "not declared" } else { declared }.to_owned(),
        pve_ostype: match family {
            OsFamily::Windows => "win10",
            OsFamily::Linux => "l26",
            OsFamily::Other => "other",
        }
        .to_owned(),
        osinfo_id: None,
    };
    (os, false)
}

/// The id that a CIM number of OVF's `OperatingSystemSection` stands for, where there is one.
#[must_use]
pub fn from_cim(number: u16) -> Option<&'static str> {
    Some(match number {
        18 => "winNT",
        29 => "solaris10",
        36 => "otherlinux",
        42 => "freebsd",
        58 => "win2000Serv",
        67 | 71 => "winXPPro",
        72 | 75 => "winXPPro-64",
        69 => "winNetStandard",
        70 => "winNetStandard-64",
        73 => "winVista",
        74 => "winVista-64",
        76 => "winLonghorn",
        77 => "winLonghorn-64",
        78 => "freebsd-64",
        79 => "rhel",
        80 => "rhel-64",
        81 => "solaris10-64",
        82 => "suse",
        83 => "suse-64",
        84 => "sles",
        85 => "sles-64",
        93 => "ubuntu",
        94 => "ubuntu-64",
        95 => "debian",
        96 => "debian-64",
        97 => "other24xlinux",
        98 => "other24xlinux-64",
        99 => "other26xlinux",
        100 => "other26xlinux-64",
        101 => "otherlinux-64",
        102 => "other-64",
        103 => "windows7srv-64",
        105 => "windows7",
        106 => "centos",
        107 => "centos-64",
        108 => "oraclelinux",
        109 => "oraclelinux-64",
        112 | 115 => "windows8srv-64",
        113 | 117 => "windows8",
        114 | 118 => "windows8-64",
        116 => "windows9srv-64",
        119 => "windows9",
        120 => "windows9-64",
        121 => "windows2019srv-64",
        122 => "windows11-64",
        123 => "windows2019srvNext-64",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{OsFamily, from_cim, from_id};

    #[test]
    fn ids_mean_what_vsphere_says_in_both_spellings() {
        let cases = [
            ("windows8srv-64", "win8", "Windows Server 2012 or 2012 R2 (64-bit)"),
            (
                "windows8Server64Guest",
                "win8",
                "Windows Server 2012 or 2012 R2 (64-bit)",
            ),
            ("windows7srv-64", "win7", "Windows Server 2008 R2 (64-bit)"),
            ("windows9Server64Guest", "win10", "Windows Server 2016 (64-bit)"),
            ("windows2019srvNext_64Guest", "win11", "Windows Server 2022 (64-bit)"),
            ("windows2022srvNext-64", "win11", "Windows Server 2025 (64-bit)"),
            ("winnetstandard", "w2k3", "Windows Server 2003 Standard (32-bit)"),
            ("WINXPPRO-64", "wxp", "Windows XP Professional (64-bit)"),
            ("winhyperv", "win10", "Hyper-V Server (64-bit)"),
            ("debian12_64Guest", "l26", "Debian 12 (64-bit)"),
            ("debian12-64", "l26", "Debian 12 (64-bit)"),
            ("rhel8_64Guest", "l26", "Red Hat Enterprise Linux 8 (64-bit)"),
            ("other24xlinux-64", "l24", "Linux 2.4 (64-bit)"),
            ("other5xLinux64Guest", "l26", "Linux 5.x (64-bit)"),
            ("vmware-photon-64", "l26", "VMware Photon OS (64-bit)"),
            ("freebsd12-64", "other", "FreeBSD 12 (64-bit)"),
            ("solaris11-64", "solaris", "Solaris 11 (64-bit)"),
        ];
        for (id, ostype, title) in cases {
            let (os, known) = from_id(id);
            assert!(known, "{id}");
            assert_eq!((os.pve_ostype.as_str(), os.title.as_str()), (ostype, title), "{id}");
        }
        assert_eq!(from_id("windows8srv-64").0.family, OsFamily::Windows);
    }

    #[test]
    fn an_unknown_id_is_never_taken_for_linux() {
        let (os, known) = from_id("templeos");
        assert!(!known);
        assert_eq!(os.pve_ostype, "other");
    }

    #[test]
    fn every_cim_number_leads_to_a_known_id() {
        for id in (0..=255).filter_map(from_cim) {
            assert!(from_id(id).1, "{id}");
        }
    }
}
