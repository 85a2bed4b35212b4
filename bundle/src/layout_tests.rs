use super::*;
use crate::GuestConsole;
use crate::image::tests::image;
use crate::manifest::{MEMORY_ALIGN, MIN_MEMORY, OnReboot};
use alloc::string::String;
use alloc::vec::Vec;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn manifest(format: Format, memory: u64) -> Manifest {
    Manifest {
        name: String::from("vm"),
        format,
        vcpus: 1,
        memory,
        protected: true,
        autostart: true,
        on_reboot: OnReboot::Stop,
        append: String::new(),
        weight: 100,
        affinity: None,
        entropy: true,
        console: GuestConsole::Pl011,
        kernel: 0,
        initrd: 0,
        disks: Vec::new(),
        nets: Vec::new(),
    }
}

fn assert_sound(layout: &Layout, memory: u64) {
    assert_eq!(
        layout.ram,
        Region {
            base: RAM_BASE,
            size: memory
        }
    );
    let mut end = RAM_BASE;
    for region in [Some(layout.kernel), Some(layout.fdt), layout.initrd]
        .into_iter()
        .flatten()
    {
        assert!(region.base >= end, "overlap in {layout:?}");
        end = region.base.checked_add(region.size).unwrap();
    }
    assert!(end <= layout.ram.end());
    assert!(layout.fdt.base.is_aligned(FDT_MAX));
    assert_eq!(layout.entry, layout.kernel.base);
}

proptest! {
    #[test]
    fn any_linux_kernel_is_placed_soundly_or_refused(
        fields in (0..4 * MIB, prop_oneof![any::<u64>(), 0..64 * MIB], 0_u64..16, 64_usize..9000),
        memory in prop_oneof![any::<u64>(), 0..128 * MIB],
        initrd in prop_oneof![any::<u64>(), 0..32 * MIB],
        fdt in 0..=FDT_MAX,
    ) {
        let kernel = image(fields.0, fields.1, fields.2, fields.3);
        if let Ok(layout) = plan(&manifest(Format::Linux, memory), &kernel, initrd, fdt) {
            assert_sound(&layout, memory);
            prop_assert!(layout.kernel.size >= fields.1.max(fields.3 as u64));
            prop_assert_eq!(layout.kernel.base.0 % image::ALIGN, fields.0);
            prop_assert_eq!(layout.initrd.map_or(0, |r| r.size), initrd);
        }
    }

    #[test]
    fn the_memory_that_is_said_to_be_needed_is_enough_and_no_less_is(
        image_size in 64..64 * MIB, initrd in 0..64 * MIB, flat: bool, file in 64_usize..5000,
    ) {
        let kernel = image(0, image_size, 0, file);
        let format = if flat { Format::Flat } else { Format::Linux };
        let mut memory = MIN_MEMORY;
        // At most three parts can be the one that does not fit.
        for _ in 0..3 {
            if let Err(Error::DoesNotFit { needed, .. }) = plan(&manifest(format, memory), &kernel, initrd, 0) {
                prop_assert!(needed > memory && needed.is_multiple_of(MEMORY_ALIGN));
                prop_assert!(plan(&manifest(format, needed - MEMORY_ALIGN), &kernel, initrd, 0).is_err());
                memory = needed;
            }
        }
        assert_sound(&plan(&manifest(format, memory), &kernel, initrd, 0).unwrap(), memory);
    }

    #[test]
    fn a_flat_kernel_never_reaches_the_tree(len in 1_usize..1 << 20, memory in 0..256 * MIB, initrd in 0..128 * MIB) {
        if let Ok(layout) = plan(&manifest(Format::Flat, memory), &vec![0; len], initrd, 0) {
            assert_sound(&layout, memory);
            prop_assert_eq!(layout.entry, Ipa(0x4008_0000));
            prop_assert_eq!(layout.fdt.base, Ipa(0x4400_0000));
        }
    }
}

#[test]
fn a_debian_kernel_lies_where_the_contract_says() {
    let kernel = image(0, 0x253_0000, 0xa, 1000);
    let layout = plan(&manifest(Format::Linux, 256 * MIB), &kernel, 5 * MIB, 100).unwrap();
    assert_eq!(
        layout.kernel,
        Region {
            base: Ipa(0x4020_0000),
            size: 0x253_0000
        }
    );
    assert_eq!(
        layout.fdt,
        Region {
            base: Ipa(0x4280_0000),
            size: FDT_MAX
        }
    );
    assert_eq!(
        layout.initrd,
        Some(Region {
            base: Ipa(0x42a0_0000),
            size: 5 * MIB
        })
    );
}

#[test]
fn messages_say_what_where_and_how_much() {
    let small = manifest(Format::Linux, 32 * MIB);
    let error = plan(&small, &image(0, 40 * MIB, 0, 64), 0, 0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "memory: 32 MiB is too little, the kernel of 41943040 bytes at 0x40200000 needs at least 42 MiB"
    );
    let error = plan(&small, &image(0, 20 * MIB, 0, 64), 10 * MIB, 0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "memory: 32 MiB is too little, the initrd of 10485760 bytes at 0x41800000 needs at least 34 MiB"
    );
    let flat = manifest(Format::Flat, 32 * MIB);
    assert_eq!(
        plan(&flat, &[1], 0, 0).unwrap_err().to_string(),
        "memory: 32 MiB is too little, the device tree of 2097152 bytes at 0x44000000 needs at least 66 MiB"
    );
    let large = plan(&flat, &vec![0; 64 << 20], 0, 0).unwrap_err();
    assert_eq!(
        large.to_string(),
        "kernel: 67108864 bytes, at most 66584576 fit between 0x40080000 and the device tree"
    );
    assert_eq!(plan(&flat, &[], 0, 0), Err(Error::NoKernel));
    assert_eq!(
        plan(&flat, &[1], 0, FDT_MAX + 1),
        Err(Error::FdtTooLarge(FDT_MAX + 1))
    );
    assert_eq!(
        plan(&small, &[0; 64], 0, 0).unwrap_err().to_string(),
        "kernel: not an arm64 Image (no \"ARM\\x64\" at byte 0x38)"
    );
}
