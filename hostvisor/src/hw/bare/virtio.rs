//! What the `virtio-drivers` crate needs of the machine: pointers to device registers.

use super::{Mmio, fatal};
use core::ptr::NonNull;
use virtio_drivers::transport::SomeTransport;
use virtio_drivers::transport::mmio::{MmioError, MmioTransport, VirtIOHeader};
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction, PciRoot};
use virtio_drivers::transport::pci::{PciTransport, VirtioPciError};
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

/// The transport at `registers`.
pub fn virtio_mmio(registers: Mmio) -> Result<SomeTransport<'static>, MmioError> {
    let (base, size) = registers.range();
    let header = NonNull::new(base as *mut VirtIOHeader).ok_or(MmioError::MmioRegionTooSmall)?;
    if size < size_of::<VirtIOHeader>() as u64 || !base.is_multiple_of(8) {
        return Err(MmioError::MmioRegionTooSmall);
    }
    // SAFETY: aligned device registers, mapped for ever by `Mmio::map`. Nothing else refers to them but by volatile
    // accesses.
    unsafe { MmioTransport::new(header, size as usize) }.map(SomeTransport::from)
}

/// The transport of PCI function `function`, all of whose memory BARs the caller has assigned.
pub fn virtio_pci(
    root: &mut PciRoot<Ecam>,
    function: DeviceFunction,
) -> Result<SomeTransport<'static>, VirtioPciError> {
    PciTransport::new::<Registers, _>(root, function).map(SomeTransport::from)
}

/// Configuration space of one bus (PCI Express base specification, §7.2.2).
#[derive(Clone, Debug)]
pub struct Ecam {
    registers: Mmio,
    bus: u8,
}

impl Ecam {
    /// Bytes of one bus.
    pub const BUS: u64 = 1 << 20;

    /// Bus `bus`, whose configuration space is at `base`.
    #[must_use]
    pub fn map(base: u64, bus: u8) -> Option<Self> {
        Mmio::map(base, Self::BUS).map(|registers| Self { registers, bus })
    }

    fn offset(&self, function: DeviceFunction, register: u8) -> u64 {
        if function.bus != self.bus {
            // Beyond the range: reads 0, writes nothing.
            return u64::MAX - 7;
        }
        u64::from(function.device & 31) << 15
            | u64::from(function.function & 7) << 12
            | u64::from(register & !3)
    }
}

impl ConfigurationAccess for Ecam {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        self.registers.read32(self.offset(function, register))
    }

    fn write_word(&mut self, function: DeviceFunction, register: u8, value: u32) {
        self.registers
            .write32(self.offset(function, register), value);
    }

    unsafe fn unsafe_clone(&self) -> Self {
        self.clone()
    }
}

/// Pointers to registers in BARs. The crate's queues are not used, so there is nothing else it could ask for.
struct Registers;

// SAFETY: no memory is ever handed out; register pointers are as `mmio_phys_to_virt` says.
unsafe impl Hal for Registers {
    fn dma_alloc(_pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        fatal(format_args!("virtio-drivers asked for memory"))
    }

    unsafe fn dma_dealloc(_at: PhysAddr, _pointer: NonNull<u8>, _pages: usize) -> i32 {
        fatal(format_args!("virtio-drivers gave memory back"))
    }

    unsafe fn mmio_phys_to_virt(at: PhysAddr, size: usize) -> NonNull<u8> {
        // Identity; mapped as device memory, or refused because it is RAM.
        match (Mmio::map(at, size as u64), NonNull::new(at as *mut u8)) {
            (Some(_), Some(pointer)) => pointer,
            _ => fatal(format_args!("PCI registers at {at:#x} cannot be mapped")),
        }
    }

    unsafe fn share(_buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        fatal(format_args!("virtio-drivers shared memory"))
    }

    unsafe fn unshare(_at: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {
        fatal(format_args!("virtio-drivers shared memory"))
    }
}
