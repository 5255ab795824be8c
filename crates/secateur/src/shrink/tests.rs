use super::*;
use crate::nets;

#[test]
fn a_share_of_every_group_goes_and_the_rest_computes_the_same() {
    let model = nets::Net::named("resnet-20").unwrap().model().unwrap();
    let by = Some(("l2/channel".parse().unwrap(), 0.5));
    let shrunk = shrink(&model, &ShrinkOptions { by, ..ShrinkOptions::default() }).unwrap();
    assert!(shrunk.size[1].parameters * 3 < shrunk.size[0].parameters);
    assert!(prove(&model, &shrunk.patch, &shrunk.kept, false).unwrap().unwrap() < 1e-4);
}
