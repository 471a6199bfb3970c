//! Setters of optional fields.

/// Gives a type a setter for each of these optional fields: `with_summary` for `summary`.
macro_rules! setters {
    ($($setter:ident => $field:ident: $type:ty),+ $(,)?) => {$(
        #[doc = concat!("Sets [`", stringify!($field), "`](Self::", stringify!($field), ").")]
        #[must_use]
        pub fn $setter(mut self, $field: $type) -> Self {
            self.$field = Some($field.into());
            self
        }
    )+};
}

pub(super) use setters;
