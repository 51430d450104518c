# Level 1 has the cases' files in its root folder; without a level 1 they are below $ROOT.
B=/bin/busybox
# l2 ACTION [VMM-ARGUMENT]...: boots level 2 with the lab's kernel and initrd.
l2() {
    action=$1; shift
    # Quiet: each character on the console costs two exits of a quarter of a millisecond.
    "$ROOT/bin/vmm" --kernel "${L2_KERNEL:-$ROOT/vmlinuz}" --initrd "$ROOT/l2.gz" --deadline "${L2_SECONDS:-40}" --marker L2-UP \
        --cmdline "console=ttyS0 quiet ${L2_CMDLINE:-panic=-1} action=$action" "$@"
}
