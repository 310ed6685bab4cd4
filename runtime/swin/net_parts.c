/* The network block by block: runs of some of its parts, and blocks whose weights change. */
#include "runtime/swin/net_impl.h"
#include "runtime/swin/outputs.h"

/* The stage that holds a part in [1, outputs), and its place in it: a block, or `depth` for what ends the stage. */
static int place_of(const swin_config *c, int part, int *place)
{
    int at = part - 1, stage = 0;
    while (stage + 1 < c->num_stages && at > c->depths[stage]) at -= c->depths[stage++] + 1;
    *place = at;
    return stage;
}

void swin_net_stream(const swin_config *c, int part, int *tokens, int *channels)
{
    int place;
    const swin_stage s = swin_config_stage(c, place_of(c, part, &place));
    *tokens = s.resolution * s.resolution;
    *channels = s.channels;
}

static size_t stream_floats(const swin_config *c, int part, int batch)
{
    int tokens, channels;
    swin_net_stream(c, part, &tokens, &channels);
    return (size_t)batch * (size_t)tokens * (size_t)channels;
}

static swin_status take_input(swin_net *net, int first, const float *in, int batch)
{
    const swin_config *c = &net->config;
    int place;
    if (first > 0)
        return net->ops->upload(net->dev, net->x[place_of(c, first, &place) & 1], in,
                                stream_floats(c, first, batch) * sizeof *in);
    const size_t side = (size_t)c->image_size, pixels = (size_t)batch * (size_t)c->in_chans * side * side;
    return net->ops->upload(net->dev, net->images, in, pixels * sizeof *in);
}

static swin_status give_output(swin_net *net, int end, int batch, float *out)
{
    const swin_config *c = &net->config;
    int place;
    if (end == swin_output_count(c))
        return net->ops->download(net->dev, out, net->logits,
                                  (size_t)batch * (size_t)c->num_classes * sizeof *out);
    return net->ops->download(net->dev, out, net->x[place_of(c, end, &place) & 1],
                              stream_floats(c, end, batch) * sizeof *out);
}

swin_status swin_net_forward_parts(swin_net *net, int first, int end, const float *in, int batch, float *out,
                                   const swin_tap *tap)
{
    const int parts = swin_output_count(&net->config);
    if (batch < 1 || first < 0 || first >= end || end > parts)
        return swin_fail(SWIN_ERR_VALUE, "parts %d to %d of %d, a batch of %d", first, end, parts, batch);
    if (net->act != SWIN_F32)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "a network runs in parts in float32 only");
    SWIN_TRY(net_reserve(net, batch, net_needs_scores(net, tap)));
    SWIN_TRY(take_input(net, first, in, batch));
    SWIN_TRY(net_walk_parts(net, first, end, net->images, batch, tap));
    return out ? give_output(net, end, batch, out) : net->ops->sync(net->dev);
}

swin_status swin_net_reload(swin_net *net, int part, const swin_weights *w)
{
    const swin_config *c = &net->config;
    if (part < 1 || part + 1 >= swin_output_count(c) || net->opts.dtype != SWIN_F32 || net->planned)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "part %d of this network cannot be given new weights", part);
    int place;
    const int stage = place_of(c, part, &place);
    net_drop_replays(net);
    return place < c->depths[stage] ? net_reload_block(net, stage, place, &w->stages[stage].blocks[place])
                                    : net_reload_merge(net, stage, &w->stages[stage]);
}

swin_status swin_net_set_softmax(swin_net *net, int stage, int block, swin_softmax softmax)
{
    const swin_config *c = &net->config;
    if (stage < 0 || stage >= c->num_stages || block < 0 || block >= c->depths[stage])
        return swin_fail(SWIN_ERR_VALUE, "stage %d of this network has no block %d", stage, block);
    net_drop_replays(net);
    net->stages[stage].blocks[block].attention.softmax = softmax;
    return SWIN_OK;
}
