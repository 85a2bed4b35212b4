//! Numbers that the linker script, the entry stub and Rust must agree on.

/// Stacks in the image, one a CPU. `_stack_count` in `linker/boot.ld`.
pub const STACKS: usize = abi::MAX_CPUS;
/// Bytes from one stack to the next. `_stack_stride` in `linker/boot.ld`.
pub const STACK_STRIDE: u64 = 0x8000;
/// Bytes at the low end of each that stay unmapped.
pub const STACK_GUARD: u64 = abi::PAGE_SIZE;

/// "HOSTSHV1" in memory order: the hostvisor's flat image has it at offset 8.
pub const HOST_MAGIC: u64 = u64::from_le_bytes(*b"HOSTSHV1");
/// Offset of [`HOST_MAGIC`].
pub const HOST_MAGIC_OFFSET: usize = 8;
/// Offset of the u64 that says how many bytes the hostvisor takes with bss and stacks.
pub const HOST_TOTAL_OFFSET: usize = 16;
/// Most bytes it may take.
pub const HOST_TOTAL_MAX: u64 = 64 << 20;
/// Bytes of heap it gets to begin with.
pub const HOST_HEAP: u64 = 2 << 20;

/// Why an embedded hostvisor image cannot be started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostImageError {
    /// The payload was built without one.
    Missing,
    /// No magic at offset 8.
    BadMagic,
    /// Its total size is less than the file or absurd.
    BadSize(u64),
}

/// Bytes that the hostvisor in the flat image `file` takes in memory, by its own header.
///
/// # Errors
/// See [`HostImageError`].
pub fn host_total_size(file: &[u8]) -> Result<u64, HostImageError> {
    if file.is_empty() {
        return Err(HostImageError::Missing);
    }
    let word = |offset: usize| {
        file.get(offset..)?
            .first_chunk()
            .map(|b| u64::from_le_bytes(*b))
    };
    if word(HOST_MAGIC_OFFSET) != Some(HOST_MAGIC) {
        return Err(HostImageError::BadMagic);
    }
    match word(HOST_TOTAL_OFFSET) {
        Some(total) if (file.len() as u64..=HOST_TOTAL_MAX).contains(&total) => Ok(total),
        total => Err(HostImageError::BadSize(total.unwrap_or(0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(magic: u64, total: u64, length: usize) -> Vec<u8> {
        let mut file = vec![0; length];
        file[8..16].copy_from_slice(&magic.to_le_bytes());
        file[16..24].copy_from_slice(&total.to_le_bytes());
        file
    }

    #[test]
    fn only_a_header_that_adds_up_is_taken() {
        assert_eq!(
            host_total_size(&image(HOST_MAGIC, 0x9000, 0x8000)),
            Ok(0x9000)
        );
        assert_eq!(host_total_size(&[]), Err(HostImageError::Missing));
        assert_eq!(host_total_size(&[0; 4]), Err(HostImageError::BadMagic));
        assert_eq!(
            host_total_size(&image(1, 0x9000, 0x8000)),
            Err(HostImageError::BadMagic)
        );
        for total in [0, 0x7fff, HOST_TOTAL_MAX + 1, u64::MAX] {
            let file = image(HOST_MAGIC, total, 0x8000);
            assert_eq!(host_total_size(&file), Err(HostImageError::BadSize(total)));
        }
        let cut = &image(HOST_MAGIC, 0x9000, 0x8000)[..20];
        assert_eq!(host_total_size(cut), Err(HostImageError::BadSize(0)));
    }

    #[test]
    fn the_linker_script_agrees() {
        let script = include_str!("../../linker/boot.ld");
        assert!(script.contains(&format!("_stack_count = {STACKS};")));
        assert!(script.contains(&format!("_stack_stride = {STACK_STRIDE:#x};")));
    }
}
