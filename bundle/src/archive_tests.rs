use super::*;
use crate::manifest::tests::manifest;
use proptest::prelude::*;

/// VMs with names of their own and files that fit their manifests.
fn vms() -> impl Strategy<Value = Vec<(Manifest, Vec<u8>, Vec<u8>)>> {
    let data = |least| prop::collection::vec(any::<u8>(), least..40);
    prop::collection::vec((manifest(), data(1), data(0)), 0..4).prop_map(|mut vms| {
        for (i, (manifest, kernel, initrd)) in vms.iter_mut().enumerate() {
            manifest.name = format!("vm-{i}");
            manifest.kernel = kernel.len() as u64;
            manifest.initrd = initrd.len() as u64;
        }
        vms
    })
}

fn new_vms(vms: &[(Manifest, Vec<u8>, Vec<u8>)]) -> Vec<NewVm<'_>> {
    vms.iter()
        .map(|(manifest, kernel, initrd)| NewVm {
            manifest,
            kernel,
            initrd,
        })
        .collect()
}

proptest! {
    #[test]
    fn what_is_written_is_read(vms in vms()) {
        let bytes = write(&new_vms(&vms)).unwrap();
        prop_assert_eq!(&bytes, &write(&new_vms(&vms)).unwrap());
        let bundle = Bundle::read(&bytes).unwrap();
        prop_assert_eq!(bundle.vms.len(), vms.len());
        for (i, (vm, (manifest, kernel, initrd))) in bundle.vms.iter().zip(&vms).enumerate() {
            let vm = vm.as_ref().unwrap();
            prop_assert_eq!((vm.index, &vm.manifest), (i, manifest));
            prop_assert_eq!((vm.kernel, vm.initrd), (&kernel[..], &initrd[..]));
        }
    }

    #[test]
    fn cut_off_anywhere_is_an_error_and_whole_vms_are_salvaged(vms in vms(), at in any::<prop::sample::Index>()) {
        let bytes = write(&new_vms(&vms)).unwrap();
        let cut = &bytes[..at.index(bytes.len())];
        prop_assert!(Bundle::read(cut).is_err());
        let (bundle, error) = Bundle::salvage(cut);
        prop_assert!(error.is_some());
        for (i, vm) in bundle.vms.iter().enumerate() {
            match vm {
                Ok(vm) => prop_assert_eq!((&vm.manifest, vm.kernel, vm.initrd), (&vms[i].0, &vms[i].1[..], &vms[i].2[..])),
                // Only the last one that was reached can be in pieces.
                Err(_) => prop_assert_eq!(i, bundle.vms.len() - 1),
            }
        }
    }

    #[test]
    fn any_damage_is_survived_and_spares_no_check(vms in vms(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = write(&new_vms(&vms)).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let (bundle, _) = Bundle::salvage(&bytes);
        for (i, vm) in bundle.vms.iter().enumerate() {
            match vm {
                Ok(vm) => {
                    prop_assert_eq!(vm.index, i);
                    prop_assert_eq!(vm.manifest.check(), Ok(()));
                    prop_assert_eq!(vm.manifest.kernel, vm.kernel.len() as u64);
                    prop_assert_eq!(vm.manifest.initrd, vm.initrd.len() as u64);
                }
                Err(error) => prop_assert!(!error.to_string().chars().any(char::is_control)),
            }
        }
    }

    #[test]
    fn any_files_are_survived(files in prop::collection::vec(("(cloister|vm0[0-2]/(manifest|kernel|initrd|x)|[ -~]{1,9})", "(cloister-bundle 1\n|name = a\n|)"), 0..8)) {
        let mut writer = Writer::new();
        for (name, data) in &files {
            writer.file(name, data.as_bytes()).unwrap();
        }
        let bytes = writer.finish();
        let (bundle, error) = Bundle::salvage(&bytes);
        prop_assert!(bundle.vms.iter().all(|vm| vm.is_err()));
        if let Some(error) = error {
            prop_assert!(!error.to_string().contains('\n'));
        }
    }
}

fn web() -> Manifest {
    let text = "name = web\nformat = linux\nvcpus = 2\nmemory = 268435456\nprotected = true\n\
                autostart = true\non-reboot = stop\nappend = \nweight = 100\n\
                affinity = all\nentropy = true\nconsole = pl011\nkernel = 3\ninitrd = 0\n";
    Manifest::parse(text.as_bytes()).unwrap()
}

/// An archive of these files behind the marker.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.file(MARKER, MARKER_TEXT.as_bytes()).unwrap();
    for (name, data) in files {
        writer.file(name, data).unwrap();
    }
    writer.finish()
}

/// What is wrong with each VM, "" for nothing.
fn verdicts(files: &[(&str, &[u8])]) -> Vec<String> {
    let bytes = archive(files);
    let bundle = Bundle::read(&bytes).unwrap();
    bundle
        .vms
        .iter()
        .map(|vm| {
            vm.as_ref()
                .err()
                .map(ToString::to_string)
                .unwrap_or_default()
        })
        .collect()
}

#[test]
fn a_broken_vm_does_not_stop_the_others() {
    let manifest = |name: &str| {
        Manifest {
            name: name.to_string(),
            ..web()
        }
        .to_string()
    };
    let (a, b, c) = (manifest("a"), manifest("b"), manifest("c"));
    assert_eq!(
        verdicts(&[
            ("vm00/manifest", a.as_bytes()),
            ("vm00/kernel", b"12"),
            ("vm01/manifest", b"nme = b\n"),
            ("vm01/kernel", b"123"),
            ("vm02/manifest", a.as_bytes()),
            ("vm02/kernel", b"123"),
            ("vm03/kernel", b"123"),
            ("vm04/manifest", b.as_bytes()),
            (
                "vm05/manifest",
                b.replace("initrd = 0", "initrd = 9")
                    .replace("= b", "= d")
                    .as_bytes()
            ),
            ("vm05/kernel", b"123"),
            ("vm06/manifest", c.replace("= c", "= e").as_bytes()),
            ("vm06/kernel", b"123"),
            ("vm06/kernel", b"123"),
            ("vm07/manifest", c.replace("= c", "= f").as_bytes()),
            ("vm07/kernel", b"123"),
            ("vm07/dtb", b"123"),
            ("vm08/manifest", c.as_bytes()),
            ("vm08/kernel", b"123"),
            (
                "vm09/manifest",
                c.replace("= c", "= g")
                    .replace("vcpus = 2", "vcpus = 0")
                    .as_bytes()
            ),
            ("vm09/kernel", b"123"),
            ("vm10/manifest", c.replace("= c", "= g").as_bytes()),
            ("vm10/kernel", b"123"),
        ]),
        [
            "VM 'a' (vm00): kernel: cut off: 2 bytes, the manifest says 3",
            "VM vm01: manifest line 1: unknown key 'nme', allowed are name, format, vcpus, memory, \
             protected, autostart, on-reboot, append, weight, affinity, entropy, console, disk, net, kernel, initrd",
            "VM 'a' (vm02): name is already taken by vm00, names must be unique",
            "VM vm03: manifest: not in the bundle",
            "VM 'b' (vm04): kernel: not in the bundle",
            "VM 'd' (vm05): initrd: not in the bundle, the manifest says 9 bytes",
            "VM 'e' (vm06): kernel: twice in the bundle",
            "VM 'f' (vm07): unknown file 'dtb', allowed are manifest, kernel, initrd",
            "",
            "VM 'g' (vm09): manifest line 3: vcpus = '0', must be a number from 1 to 16",
            "VM 'g' (vm10): name is already taken by vm09, names must be unique",
        ]
    );
}

#[test]
fn what_is_no_bundle_is_refused_in_one_line() {
    let refusal = |bytes: &[u8]| Bundle::read(bytes).unwrap_err().to_string();
    let no_bundle = "first file is not 'cloister': not made by 'cloister bundle'";
    assert_eq!(refusal(&Writer::new().finish()), no_bundle);
    let mut initrd = Writer::new();
    initrd.file("init", b"#!").unwrap();
    assert_eq!(refusal(&initrd.finish()), no_bundle);
    let mut newer = Writer::new();
    newer.file(MARKER, b"cloister-bundle 2\n").unwrap();
    assert_eq!(
        refusal(&newer.finish()),
        "marker says 'cloister-bundle 2', this version reads 'cloister-bundle 1'"
    );
    assert_eq!(
        refusal(b""),
        "cpio archive, byte 0: cut off, no TRAILER!!! entry at the end"
    );
    for name in [
        "vm01/manifest",
        "vm0/manifest",
        "vm000/manifest",
        "x",
        "vm+0/kernel",
        "cloister",
    ] {
        assert_eq!(
            refusal(&archive(&[(name, b"")])),
            format!("byte 140: unexpected file '{name}', VM vm00 would be next")
        );
    }
}

#[test]
fn a_bundle_without_vms_is_a_bundle() {
    assert_eq!(Bundle::read(&write(&[]).unwrap()).unwrap().vms, []);
}

#[test]
fn what_would_not_be_read_is_not_written() {
    let manifest = web();
    let vm = |manifest| NewVm {
        manifest,
        kernel: b"123",
        initrd: b"",
    };
    let refusal = |vms: &[NewVm<'_>]| write(vms).unwrap_err().fault;
    assert_eq!(
        refusal(&[vm(&manifest), vm(&manifest)]),
        VmFault::DuplicateName(0)
    );
    assert_eq!(
        refusal(&[NewVm {
            kernel: b"12",
            ..vm(&manifest)
        }]),
        VmFault::Size {
            file: "kernel",
            expected: 3,
            found: 2
        }
    );
    let invalid = Manifest { vcpus: 0, ..web() };
    assert!(matches!(refusal(&[vm(&invalid)]), VmFault::Manifest(_)));
    let many: Vec<_> = (0..=MAX_VMS)
        .map(|i| Manifest {
            name: format!("vm-{i}"),
            ..web()
        })
        .collect();
    let many: Vec<_> = many.iter().map(vm).collect();
    assert_eq!(
        Bundle::read(&write(&many[..MAX_VMS]).unwrap())
            .unwrap()
            .vms
            .len(),
        MAX_VMS
    );
    assert_eq!(refusal(&many), VmFault::TooMany);
}
