//! Compares estimates of the memory of networks with counts by hand.

#[cfg(test)]
mod tests {
    use hemlock_models::Arch;

    fn arch(name: &str) -> Arch {
        name.parse().unwrap()
    }

    #[test]
    fn numbers_that_are_kept_are_those_of_all_convolutions() {
        // The stem and three blocks of two convolutions at 32 x 32 pixels; then blocks at 16 x 16 and at 8 x 8.
        let resnet20 = 16.0 * 1024.0 * (1.0 + 6.0) + 32.0 * 256.0 * 6.0 + 64.0 * 64.0 * 6.0;
        assert_eq!(arch("resnet20").kept([32, 32]), resnet20);
        assert_eq!(arch("resnet20").held([32, 32]), 16.0 * 1024.0);
        // Four groups of two blocks; the stem and the pooling halve the size.
        let resnet18 = 64.0 * (112.0f64.powi(2) + 4.0 * 56.0f64.powi(2))
            + 4.0 * (128.0 * 28.0f64.powi(2) + 256.0 * 14.0f64.powi(2) + 512.0 * 7.0f64.powi(2));
        assert_eq!(arch("resnet18-imagenet").kept([224, 224]), resnet18);
        // The pooling alone halves the size.
        let pooled = 64.0 * (1024.0 + 4.0 * 256.0) + 4.0 * (128.0 * 64.0 + 256.0 * 16.0 + 512.0 * 4.0);
        assert_eq!(arch("resnet18-pool").kept([32, 32]), pooled);
        assert_eq!(arch("resnet18-pool").held([32, 32]), 64.0 * 1024.0);
        // Blocks of three convolutions, the last of which has four times the width.
        let resnet50 =
            64.0 * 1024.0 * (1.0 + 3.0 * 6.0) + 6.0 * (4.0 * 128.0 * 256.0 + 6.0 * 256.0 * 64.0 + 3.0 * 512.0 * 16.0);
        assert_eq!(arch("resnet50").kept([32, 32]), resnet50);
        // The first two of the three have twice the width.
        let wide =
            64.0 * 1024.0 * (1.0 + 3.0 * 8.0) + 8.0 * (4.0 * 128.0 * 256.0 + 6.0 * 256.0 * 64.0 + 3.0 * 512.0 * 16.0);
        assert_eq!(arch("resnet50-wide").kept([32, 32]), wide);
    }

    #[test]
    fn transformers_keep_what_every_token_attends_to() {
        // 196 patches and the class token; three heads of 64.
        let block = 197.0 * (9.0 * 192.0 + 3.0 * 197.0);
        assert_eq!(arch("vit-tiny-p16").held([224, 224]), block);
        assert_eq!(arch("vit-tiny-p16").kept([224, 224]), 12.0 * block);
        // With patches of one pixel, a batch fits on no machine.
        assert!(4.0 * 256.0 * arch("vit-tiny-p1").kept([224, 224]) > 1e12);
    }
}
