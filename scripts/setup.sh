#!/usr/bin/env bash
# Installs what esxodus needs on a Debian machine. Idempotent: a second run changes nothing and takes a second.
#
# usage: scripts/setup.sh [run|test|bench|fuzz|lab]...    (default: run)
#   run    convert, boot and measure guests: QEMU, firmware, a guest kernel for the appliance, a C compiler
#   test   what the test suite compares with: libvirt's validators, file-system tools, a headless browser
#   bench  the reference tools of `make bench*`: fio, sysbench, iperf3, qperf, nbdcopy, xfsprogs, virt-v2v, guestfish, and scipy for the statistics' values
#   fuzz   cargo-fuzz, and the C++ compiler that libFuzzer is built with
#   lab    what the nested KVM lab needs beside `run`
#
# Works as root or through sudo. On a Proxmox host it never touches QEMU: Debian's packages would remove Proxmox's.
# It installs no kernel: the appliance's kernel is unpacked into the cache, this machine's boot loader is left alone.
set -euo pipefail

groups=("$@"); [ ${#groups[@]} -gt 0 ] || groups=(run)
cache=${ESXODUS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/esxodus}
say() { printf 'setup: %s\n' "$*" >&2; }
die() { printf 'setup: %s\n' "$*" >&2; exit 2; }

command -v apt-get >/dev/null || die "this script knows Debian's apt only; docs/setup.md lists what to install elsewhere"
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else die "installing packages needs root: run 'su -c \"$0 ${groups[*]}\"' or install sudo"; fi
}
apt_get() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 "$@" >&2; }
installed() { dpkg-query -W -f='${db:Status-Abbrev}' "$1" 2>/dev/null | grep -q '^ii'; }

codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
proxmox=no; if installed pve-qemu-kvm || installed pve-manager; then proxmox=yes; fi

updated=no
refresh() { [ "$updated" = yes ] || { say "refreshing the package lists"; apt_get update; updated=yes; }; }

# Bookworm's own QEMU (7.2) is too old for some options that we use and conflicts with newer qemu-utils: take both from
# backports. The suite is added beside the machine's existing source, on the same mirror.
backports() {
  [ "$codename" = bookworm ] || return 0
  apt-cache policy | grep -q 'bookworm-backports' && return 0
  local mirror
  mirror=$(apt-get indextargets --format '$(SITE)|$(RELEASE)|$(COMPONENT)' 2>/dev/null | awk -F'|' '$2=="bookworm" && $3=="main" {print $1; exit}')
  [ -n "$mirror" ] || die "no Debian bookworm mirror in this machine's apt sources: add one, then run this again"
  say "adding the suite bookworm-backports from this machine's own mirror"
  printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s bookworm-backports main\n' "$mirror" |
    as_root tee /etc/apt/sources.list.d/esxodus-backports.list >/dev/null
  updated=no; refresh
}

need() {           # need PACKAGE...: install those that are missing
  local missing=() p
  for p in "$@"; do installed "$p" || missing+=("$p"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  refresh; say "installing ${missing[*]}"
  apt_get install --no-install-recommends "${missing[@]}"
}

need_qemu() {
  if [ "$proxmox" = yes ]; then
    say "this is a Proxmox host: its own QEMU is used, no QEMU package is installed"
    command -v qemu-system-x86_64 >/dev/null || [ -x /usr/bin/kvm ] || die "Proxmox's QEMU is missing: apt install pve-qemu-kvm"
    return 0
  fi
  local version='' packages=(qemu-system-x86 qemu-utils seabios ovmf)
  if installed qemu-system-x86 && installed qemu-utils && installed seabios && installed ovmf; then
    version=$(dpkg-query -W -f='${Version}' qemu-system-x86 | sed 's/^[0-9]*://; s/[^0-9.].*//')
    if dpkg --compare-versions "$version" ge 8.0; then return 0; fi
  fi
  if [ "$codename" = bookworm ]; then
    backports; refresh; say "installing QEMU from bookworm-backports"
    apt_get install --no-install-recommends -t bookworm-backports "${packages[@]}"
  else
    need "${packages[@]}"
  fi
}

# The appliance and the nested lab boot a stock Debian cloud kernel. Unpacking the package is enough, and it leaves
# /boot and the boot loader of this machine as they are.
guest_kernel() {
  local dir=$cache/kernel package
  # The newest one that the package lists know; a cached one stays good without network.
  if [ -e "$dir/current/vmlinuz" ] && [ -d "$dir/current/modules/kernel" ]; then return 0; fi
  refresh
  package=$(apt-cache depends --no-recommends --no-suggests linux-image-cloud-amd64 | awk '/Depends: linux-image-.*-cloud-amd64/ {print $2; exit}')
  [ -n "$package" ] || die "no Debian cloud kernel in the package lists (linux-image-cloud-amd64)"
  local version=${package#linux-image-}
  say "unpacking the guest kernel $version into the cache (nothing is installed)"
  mkdir -p "$dir"; local work; work=$(mktemp -d "$dir/.partial.XXXXXX")
  # shellcheck disable=SC2064 # the folder of this call, not of the moment the trap runs
  trap "rm -rf '$work'" EXIT
  (cd "$work" && apt-get -q download "$package" >&2 && dpkg-deb -x ./*.deb root)
  mkdir -p "$work/out"
  mv "$work/root/boot/vmlinuz-$version" "$work/out/vmlinuz"
  mv "$work/root/boot/config-$version" "$work/out/config"
  local modules
  for modules in "$work/root/lib/modules/$version" "$work/root/usr/lib/modules/$version"; do
    [ -d "$modules" ] && mv "$modules" "$work/out/modules"
  done
  [ -d "$work/out/modules/kernel" ] || die "the package $package has no modules where they were expected"
  printf '%s\n' "$version" > "$work/out/version"
  depmod_into "$work/out" "$version"
  rm -rf "${dir:?}/$version"; mv "$work/out" "$dir/$version"; rm -rf "$work"
  ln -sfn "$version" "$dir/current"
}
# modules.dep is made by the package's postinst, which we do not run.
depmod_into() {
  local base; base=$(mktemp -d); mkdir -p "$base/lib/modules"; ln -s "$1/modules" "$base/lib/modules/$2"
  PATH=$PATH:/usr/sbin:/sbin depmod -b "$base" "$2"; rm -rf "$base"
}

rust() {
  command -v cargo >/dev/null && return 0
  [ -x "$HOME/.cargo/bin/cargo" ] && return 0
  # The edition and the kvm crates want a newer compiler than bookworm's own rustc: rustup is packaged from trixie on.
  if apt-cache show rustup >/dev/null 2>&1; then need rustup; rustup default stable >&2
  else die "Rust 1.95 or newer is needed: install it with rustup (https://rustup.rs), then run this again"; fi
}

# KubeVirt's published API as types, with the compiler that checks manifests against them. npm is not installed for it:
# Debian's package brings hundreds of others.
kubevirt_api() {
  local dir=$cache/kubevirt-api
  [ -e "$dir/node_modules/typescript/bin/tsc" ] && [ -d "$dir/node_modules/@kubevirt-ui-ext/kubevirt-api" ] && return 0
  command -v npm >/dev/null || { say "npm is missing: the check of manifests against KubeVirt's types is skipped"; return 0; }
  say "fetching KubeVirt's types"
  mkdir -p "$dir"; printf '{"private":true,"type":"module"}\n' > "$dir/package.json"
  (cd "$dir" && npm install --no-audit --no-fund --ignore-scripts typescript@5.9.3 @kubevirt-ui-ext/kubevirt-api@1.7.0 >&2) ||
    say "KubeVirt's types were not fetched: the check of manifests against them is skipped"
}

for group in "${groups[@]}"; do
  case $group in
    run)
      need ca-certificates make gcc libc6-dev libzstd-dev pkg-config kmod mmdebstrap fdisk e2fsprogs dosfstools mtools busybox-static cpio gzip xz-utils zstd lvm2 cryptsetup-bin python3-minimal
      need_qemu; guest_kernel; rust ;;
    test)
      need libvirt-clients libvirt0 libvirt-daemon libvirt-daemon-driver-qemu libxml2-utils osinfo-db xfsprogs btrfs-progs ntfs-3g wimtools acpica-tools libhivex-bin chromium iproute2 iperf3 swtpm swtpm-tools openssl lxc lz4 passt 7zip
      kubevirt_api ;;
    bench)
      need fio sysbench iperf3 qperf iproute2 libnbd-bin xfsprogs time python3-scipy virt-v2v nbdkit guestfish
      # supermin, which makes guestfish's appliance, wants the folder even where another kernel's modules are named to it.
      [ -d /lib/modules ] || as_root mkdir /lib/modules ;;
    fuzz)
      need g++; rust
      PATH=$HOME/.cargo/bin:$PATH
      command -v cargo-fuzz >/dev/null || { say "building cargo-fuzz"; cargo install --locked cargo-fuzz >&2; } ;;
    lab)
      need busybox-static cpio lz4 xz-utils zstd e2fsprogs; need_qemu; guest_kernel ;;
    *) die "unknown group '$group' (run, test, bench, fuzz, lab)" ;;
  esac
done
say "ready (${groups[*]})"
