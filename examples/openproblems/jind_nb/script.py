"""A method of OpenProblems' task of label projection: labels of the test cells from the training cells."""

import anndata as ad

import jind_nb as jn

## VIASH START
par = {"input_train": "train.h5ad", "input_test": "test.h5ad", "output": "output.h5ad"}
meta = {"name": "jind_nb"}
## VIASH END

train, test = ad.read_h5ad(par["input_train"]), ad.read_h5ad(par["input_test"])
train.obs["jind_batch"] = "train " + train.obs["batch"].astype(str)
test.obs["jind_batch"] = "test"
test.obs["label"] = "unknown"
both = ad.concat([train, test], join="inner", merge="first", keys=["train", "test"], index_unique="|")
model = jn.annotate(both, batch_key="jind_batch", labels_key="label", target="test", layer="counts")

# Every cell counts in this task, so there is no Unassigned.
answers = both.obs.loc[both.obs["jind_batch"] == "test", "jind_raw_prediction"]
test.obs["label_pred"] = answers.astype(str).to_numpy()
known = {name: test.uns[name] for name in ("dataset_id", "normalization_id") if name in test.uns}
output = ad.AnnData(obs=test.obs[["label_pred"]], uns=known | {"method_id": meta["name"]})
output.write_h5ad(par["output"], compression="gzip")
