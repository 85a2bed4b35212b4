//! Where the payload's own parts lie, by the linker script's symbols.

use boot::layout::{STACK_GUARD, STACK_STRIDE};
use boot::ranges::Range;

unsafe extern "C" {
    static _image_start: u8;
    static _text_end: u8;
    static _rodata_end: u8;
    static _data_end: u8;
    static _stacks_start: u8;
    static _image_end: u8;
}

macro_rules! address {
    ($symbol:ident) => {
        (&raw const $symbol) as u64
    };
}

/// First byte of the image.
pub(crate) fn start() -> u64 {
    address!(_image_start)
}

/// All of it, bss and stacks included.
pub(crate) fn all() -> Range {
    Range {
        start: start(),
        end: address!(_image_end),
    }
}

/// Instructions.
pub(crate) fn text() -> Range {
    Range {
        start: start(),
        end: address!(_text_end),
    }
}

/// Constants, relocated ones and the embedded hostvisor included.
pub(crate) fn constants() -> Range {
    Range {
        start: address!(_text_end),
        end: address!(_rodata_end),
    }
}

/// Data and bss.
pub(crate) fn data() -> Range {
    Range {
        start: address!(_rodata_end),
        end: address!(_data_end),
    }
}

/// The stack of CPU `index`, without its guard page.
pub(crate) fn stack(index: usize) -> Range {
    let base = address!(_stacks_start) + index as u64 * STACK_STRIDE;
    Range {
        start: base + STACK_GUARD,
        end: base + STACK_STRIDE,
    }
}
