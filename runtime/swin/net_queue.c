/* Batches in flight: while the network works on one, the next is copied beside it, into a second place. */
#include <stdlib.h>

#include "runtime/base/half.h"
#include "runtime/swin/net_impl.h"

static bool beside(const swin_net *net)
{
    return net->ops->upload_beside && net->ops->download_later && net->ops->download_wait;
}

static size_t pixels_of(const swin_net *net, int batch)
{
    const swin_config *c = &net->config;
    return (size_t)batch * (size_t)c->in_chans * (size_t)c->image_size * (size_t)c->image_size;
}

static swin_status make_places(swin_net *net)
{
    const size_t floats = (size_t)net->capacity * (size_t)net->config.num_classes;
    void *p = NULL;
    if (beside(net)) {
        if (net->second) return SWIN_OK;
        SWIN_TRY(net->ops->alloc(net->dev, &p, pixels_of(net, net->capacity) * sizeof(float)));
        net->second = p;
        return SWIN_OK;
    }
    for (int i = 0; i < 2; i++) {
        if (!net->held[i]) net->held[i] = malloc(floats * sizeof(float));
        if (!net->held[i])
            return swin_fail(SWIN_ERR_MEM, "no memory for the logits of %d images", net->capacity);
    }
    return SWIN_OK;
}

static swin_status queue_beside(swin_net *net, const float *images, int batch)
{
    float *place = net->turn ? net->second : net->images;
    swin_tensor logits;
    SWIN_TRY(net->ops->upload_beside(net->dev, place, images, pixels_of(net, batch) * sizeof(float)));
    SWIN_TRY(swin_net_forward_device(net, place, batch, &logits, NULL));
    return net->ops->download_later(net->dev, net->turn, logits.data,
                                    (size_t)(logits.rows * logits.cols) * swin_dtype_size(net->act));
}

swin_status swin_net_queue(swin_net *net, const float *images, int batch)
{
    if (batch < 1) return swin_fail(SWIN_ERR_VALUE, "a batch of %d images", batch);
    if (net->in_flight == 2 || (net->in_flight > 0 && batch > net->capacity))
        return swin_fail(SWIN_ERR_VALUE, "a batch of %d images while %d are in flight", batch,
                         net->in_flight);
    SWIN_TRY(net_reserve(net, batch, net_needs_scores(net, NULL)));
    SWIN_TRY(make_places(net));
    SWIN_TRY(beside(net) ? queue_beside(net, images, batch)
                         : swin_net_forward(net, images, batch, net->held[net->turn], NULL));
    net->queued[net->in_flight++] = batch;
    net->turn ^= 1;
    return SWIN_OK;
}

swin_status swin_net_fetch(swin_net *net, float *logits)
{
    if (net->in_flight == 0) return swin_fail(SWIN_ERR_VALUE, "no batch is in flight");
    const int slot = net->in_flight == 2 ? net->turn : net->turn ^ 1;
    const size_t n = (size_t)net->queued[0] * (size_t)net->config.num_classes;
    net->queued[0] = net->queued[1];
    net->in_flight--;
    if (!beside(net)) {
        for (size_t i = 0; i < n; i++) logits[i] = net->held[slot][i];
        return SWIN_OK;
    }
    if (net->act == SWIN_F32) return net->ops->download_wait(net->dev, slot, logits, n * sizeof *logits);
    SWIN_TRY(net->ops->download_wait(net->dev, slot, net->host_logits, n * swin_dtype_size(net->act)));
    swin_widen(logits, net->host_logits, net->act, n);
    return SWIN_OK;
}
