/* runtime/swin/net.h - a network ready to run on one device: weights prepared for a backend, buffers, the model walk.
 *
 *     swin_net_create(&net, dev, &config, &weights, &opts);
 *     swin_net_forward(net, images, batch, logits, tap);
 */
#ifndef SWIN_SWIN_NET_H
#define SWIN_SWIN_NET_H

#include "runtime/swin/config.h"
#include "runtime/swin/plan.h"
#include "runtime/swin/tap.h"
#include "runtime/swin/weights.h"

typedef struct swin_net swin_net;

typedef struct swin_net_opts {
    swin_dtype
        dtype; /* SWIN_F32, SWIN_F16, SWIN_BF16. Where the backend has no halves of its own (ref, cpu) they are
                         emulated: float32 arithmetic, every weight and every operator's output rounded to the type;
                         scores stay float32 into the softmax, as in a fused kernel, and probabilities are rounded */
    swin_softmax softmax; /* how attention probabilities are made: SWIN_SOFTMAX_EXACT or _U8 (int8-mode 3) */
    const swin_plan
        *plan; /* NULL: float; else the integer network of plan.h. Read during swin_net_create only */
    int chunk; /* images that a stage works on at once; 0: the backend's choice. Results do not depend on it */
    bool no_graph; /* walk anew for every forward, even where the backend could replay a recorded one */
} swin_net_opts;

/*
 * c and w are read during the call only; the net keeps its own copies in dev's memory. dev must outlive the net.
 */
swin_status swin_net_create(swin_net **net, swin_dev *dev, const swin_config *c, const swin_weights *w,
                            const swin_net_opts *opts);
void swin_net_free(swin_net *net); /* NULL is fine */

/*
 * One forward pass.
 *
 * images  host float32 [batch][3][S][S], normalised
 * logits  host float32 [batch][classes]; NULL: not wanted, and not waited for
 * tap     NULL for none
 *
 * A row of logits depends on its image alone: not on the batch, its size, or the other images. Not reentrant.
 */
swin_status swin_net_forward(swin_net *net, const float *images, int batch, float *logits,
                             const swin_tap *tap);

/*
 * The same for a stream of batches, so that copies run beside the network: queue a batch (images is free on return), and
 * fetch the logits of the oldest one that was queued and not fetched. At most two are in flight: SWIN_ERR_VALUE when a
 * third is queued, or nothing is left to fetch. batch: not more than that of the first call after creation or after
 * everything was fetched. Nothing else may run on the net meanwhile.
 */
swin_status swin_net_queue(swin_net *net, const float *images, int batch);
swin_status swin_net_fetch(swin_net *net, float *logits);

/* The same with images already in dev's memory (float32) and the logits left there: [batch][classes] in the net's type on
 * a backend with halves of its own, else float32. Queued, not waited for; *logits is valid until the next forward. */
swin_status swin_net_forward_device(swin_net *net, const float *images, int batch, swin_tensor *logits,
                                    const swin_tap *tap);
/* Those logits as host float32 [batch][classes]: waits for them. */
swin_status swin_net_logits(swin_net *net, const swin_tensor *logits, float *host);

/* ---- the walk in parts, for work that goes through a network block by block ------------------------------------ */

/* Parts are numbered as swin_output_at numbers their outputs: 0 the patch embedding, then every block and every merge in
 * order, last the final norm with mean and head. Between two parts runs the residual stream: float32 [batch][tokens][C] in
 * image order. The shape of the stream that enters `part`, in [1, swin_output_count()). */
void swin_net_stream(const swin_config *c, int part, int *tokens, int *channels);
/* Its floats, one image; part 0: of the image, swin_output_count(): of the logits. Streams never grow. */
size_t swin_net_stream_floats(const swin_config *c, int part);

/*
 * Parts [first, end), first < end.
 *
 * in   first 0: images, as for swin_net_forward; else the stream that enters part `first`, in dev's memory
 * out  end == swin_output_count(): logits, host; else the stream that enters part `end`, in dev's memory: it may begin where
 *      `in` begins, or before it. NULL: not wanted
 *
 * The same bits as the whole walk gives. Waits for logits alone. Float32 networks only (a net with a plan included).
 */
swin_status swin_net_forward_parts(swin_net *net, int first, int end, const float *in, int batch, float *out,
                                   const swin_tap *tap);

/* Take the norms and Linear layers of one block or merge anew from w. SWIN_ERR_UNSUPPORTED for other parts and for nets
 * that are not plain float32. */
swin_status swin_net_reload(swin_net *net, int part, const swin_weights *w);

/* The same for a block whose norms and biases alone are others: much less work. */
swin_status swin_net_reload_biases(swin_net *net, int part, const swin_weights *w);

/* How one block makes its attention probabilities from now on (swin_net_opts.softmax is for all). SWIN_ERR_VALUE: there is no
 * such block. */
swin_status swin_net_set_softmax(swin_net *net, int stage, int block, swin_softmax softmax);

const swin_config *swin_net_config(const swin_net *net);
swin_dev *swin_net_dev(const swin_net *net);

#endif
