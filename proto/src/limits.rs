//! Explicit limits of the wire.

/// Largest message either side takes. A chunk travels in frames far below it.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Largest frame of a streamed upload.
pub const MAX_FRAME_BYTES: usize = 256 << 10;

/// What our own clients send and our servers answer with.
pub const FRAME_BYTES: usize = 128 << 10;

/// Items of a page unless asked for otherwise.
pub const DEFAULT_PAGE: usize = 100;

/// Items of a page at most.
pub const MAX_PAGE: usize = 1000;

/// One page of `items` and the token of the next; a token is the position to go on from.
pub fn page<T>(items: Vec<T>, size: i32, token: &str) -> Result<(Vec<T>, String), crate::convert::Invalid> {
    page_of(items, size, token)
}

/// The same of what may be long: nothing beyond the page is looked at, and what items are made into is best made of the page.
pub fn page_of<T>(
    items: impl IntoIterator<Item = T>,
    size: i32,
    token: &str,
) -> Result<(Vec<T>, String), crate::convert::Invalid> {
    let from: usize = match token {
        "" => 0,
        token => token
            .parse()
            .map_err(|_| crate::convert::Invalid::new("page_token", format!("`{token}` was not issued here")))?,
    };
    let size = match usize::try_from(size) {
        Ok(0) => DEFAULT_PAGE,
        Ok(size) => size.min(MAX_PAGE),
        Err(_) => return Err(crate::convert::Invalid::new("page_size", format!("{size} is negative"))),
    };
    let mut rest = items.into_iter().skip(from);
    let page: Vec<T> = rest.by_ref().take(size).collect();
    // A token is the client's word: whatever number it is, it must not overflow.
    let next = rest.next().map(|_| from.saturating_add(size).to_string());
    Ok((page, next.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::{page, page_of};

    #[test]
    fn pages_cover_everything_once() {
        let (mut token, mut seen) = (String::new(), Vec::new());
        loop {
            let (items, next) = page_of(0..7, 3, &token).unwrap();
            seen.extend(items);
            if next.is_empty() {
                break;
            }
            token = next;
        }
        assert_eq!(seen, (0..7).collect::<Vec<_>>());
        assert!(page(vec![1], -1, "").is_err() && page(vec![1], 0, "x").is_err());
    }

    #[test]
    fn no_more_is_looked_at_than_a_page_needs() {
        let mut looked_at = 0;
        let items = (0..1000).inspect(|_| looked_at += 1);
        assert_eq!(page_of(items, 3, "4").unwrap(), (vec![4, 5, 6], "7".to_owned()));
        assert_eq!(looked_at, 8);
    }

    #[test]
    fn a_token_beyond_everything_is_an_empty_last_page() {
        assert_eq!(page(vec![1], 0, &usize::MAX.to_string()).unwrap(), (vec![], String::new()));
    }
}
