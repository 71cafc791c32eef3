"""Checks that rows 76 and on miss, each on a model that it concerns."""

from __future__ import annotations

from tests.bad_input.mutated import Mutation

FORMAT, FOLDER, PLACE = "io/_format.py", "io/_folder.py", "io/_place.py"
MANAGER, FINGERPRINT, LEFT = "registry/manager.py", "registry/_fingerprint.py", "registry/leftovers.py"
TABLES, VERBS, ENTRIES, GIVEN = "arrays/tables.py", "model/verbs.py", "_entries.py", "train/_given.py"
COVARIATES, SOURCE, TRAINING = "registry/covariates.py", "registry/source.py", "model/_training_options.py"

MUTATIONS: tuple[Mutation, ...] = (
    Mutation(76, "VAE", FORMAT, 'if CELLS not in manifest["parts"]:', "if not (path / CELLS).exists():"),
    Mutation(77, "ACTINN", FOLDER, " and is_as_described(path, described)", " and described"),
    Mutation(78, "PPCA", PLACE, "if not text.strip() or", "if False or"),
    Mutation(78, "ACTINN", FOLDER, "    if not os.path.lexists(file):", "    if True:"),
    Mutation(79, "VAE", MANAGER, "            self._require_same_matrix()", "            pass"),
    Mutation(79, "ACTINN", MANAGER, "            self.require_same_cells()\n", "            pass\n"),
    Mutation(79, "PPCA", MANAGER, "require_same_genes(self.adata.var_names, self._genes)", "pass"),
    Mutation(80, "LABELVI", FINGERPRINT, "            if self.differs(x).any():", "            if True:"),
    Mutation(81, "SCGEN", LEFT, "& ~predicted).any()]", "& True).any()]"),
    Mutation(81, "ACTINN", LEFT, "    if left:\n        logger.info(", "    if False:\n        logger.info("),
    Mutation(82, "SCGEN", TABLES, "if len(missing) or", "if"),
    Mutation(82, "PPCA", TABLES, "if not self.one_order:", "if False:"),
    Mutation(83, "MIXVI", VERBS, "known_keywords(kwargs, verb_keywords(model_class, name), among=", "dict(among="),
    Mutation(84, "PPCA", GIVEN, "    if len(both):", "    if False:"),
    Mutation(84, "ACTINN", GIVEN, "if (times > 1).any():", "if False:"),
    Mutation(85, "SCGEN", TRAINING, "if held_out and not n_held_out:", "if False:"),
    Mutation(86, "LABELVI", "registry/columns.py", "if not is_readable(kind)]", "if False]"),
    Mutation(87, "VAE", "model/_copies.py", "    model.id = str(uuid4())", "    pass"),
    Mutation(
        88,
        "ACTINN",
        ENTRIES,
        "if isinstance(plain, bool | np.timedelta64) or not whole:",
        "if not whole:",
    ),
    Mutation(
        89,
        "VAE",
        VERBS,
        'given["indices"] = positions(given["indices"], cells.n_obs, cells=cells.obs_names)',
        "pass",
    ),
    Mutation(89, "PPCA", ENTRIES, "given if order is None else given[order]", "given"),
    Mutation(90, "SCGEN", ENTRIES, "    if isinstance(value, AnnData):", "    if True:"),
    Mutation(91, "VAE", COVARIATES, "values if moments is None else standardised(values, moments)", "values"),
    Mutation(
        91, "MIXVI", COVARIATES, "for place in np.flatnonzero(far.any(0)):", "for place in np.flatnonzero(far.all(0)):"
    ),
    Mutation(92, "SCGEN", "model/_library_prior.py", "    if len(narrow):", "    if False:"),
    Mutation(93, "LABELVI", "model/_bound.py", "if value > LARGEST_BOUND}", "if value > 1e99}"),
    Mutation(94, "PPCA", "model/own_response.py", "    if not found:", "    if True:"),
    Mutation(95, "LABELVI", "registry/depth.py", "    if found:", "    if False:"),
    Mutation(96, "ACTINN", SOURCE, "if adata.raw is not None and holds(adata.raw.X, kind):", "if False:"),
    Mutation(96, "PPCA", SOURCE, "    if found:", "    if False:"),
    Mutation(
        97,
        "MIXVI",
        "registry/genes.py",
        "for suggestion in (_prefix_of_query, _prefix_of_model, _spaces):",
        "for suggestion in (_spaces,):",
    ),
)
