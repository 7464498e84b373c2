// Carry cell types from annotated batches over to one batch without labels. Thin around `jind-nb run`; PATH in the parameter
// file is replaced by the staged file.
process JINDNB_RUN {
    tag "$meta.id"
    label 'process_medium'

    // On no registry yet: docker build -t jind-nb . in the checkout.
    container 'jind-nb'

    input:
    tuple val(meta), path(h5ad), path(parameters)

    output:
    tuple val(meta), path("${prefix}/annotated_target.h5ad"), emit: h5ad
    tuple val(meta), path("${prefix}/predictions.parquet")  , emit: predictions
    tuple val(meta), path("${prefix}/report.html")          , emit: report
    tuple val(meta), path("${prefix}/trained_models")       , emit: model
    tuple val(meta), path("${prefix}/manifest.json")        , emit: manifest
    path "versions.yml"                                     , emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    export OMP_NUM_THREADS=$task.cpus
    jind-nb run $parameters -s PATH=$h5ad --output-path $prefix $args

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        jind-nb: \$(jind-nb --version | sed 's/^jind-nb //')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    mkdir -p $prefix/trained_models
    touch $prefix/annotated_target.h5ad $prefix/predictions.parquet $prefix/report.html $prefix/manifest.json versions.yml
    """
}
