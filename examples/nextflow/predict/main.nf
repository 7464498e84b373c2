// Annotate the cells of a new file with a saved model; nothing is trained. Thin around `jind-nb predict`.
process JINDNB_PREDICT {
    tag "$meta.id"
    label 'process_medium'

    // On no registry yet: docker build -t jind-nb . in the checkout.
    container 'jind-nb'

    input:
    tuple val(meta), path(h5ad)
    path model

    output:
    tuple val(meta), path("${prefix}/annotated_target.h5ad"), emit: h5ad
    tuple val(meta), path("${prefix}/predictions.parquet")  , emit: predictions
    tuple val(meta), path("${prefix}/manifest.json")        , emit: manifest
    path "versions.yml"                                     , emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    export OMP_NUM_THREADS=$task.cpus
    jind-nb predict $model $h5ad --output-path $prefix $args

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        jind-nb: \$(jind-nb --version | sed 's/^jind-nb //')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    mkdir -p $prefix
    touch $prefix/annotated_target.h5ad $prefix/predictions.parquet $prefix/manifest.json versions.yml
    """
}
