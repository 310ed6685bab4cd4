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

size_t swin_net_stream_floats(const swin_config *c, int part)
{
    int tokens, channels;
    if (part == 0) return (size_t)c->in_chans * (size_t)c->image_size * (size_t)c->image_size;
    if (part == swin_output_count(c)) return (size_t)c->num_classes;
    swin_net_stream(c, part, &tokens, &channels);
    return (size_t)tokens * (size_t)channels;
}

static void *stream_before(const swin_net *net, int part)
{
    int place;
    return net->x[place_of(&net->config, part, &place) & 1];
}

static swin_status take_input(swin_net *net, int first, const float *in, int batch)
{
    const size_t bytes = (size_t)batch * swin_net_stream_floats(&net->config, first) * sizeof *in;
    return first > 0 ? net->ops->copy(net->dev, stream_before(net, first), in, bytes)
                     : net->ops->upload(net->dev, net->images, in, bytes);
}

static swin_status give_output(swin_net *net, int end, int batch, float *out)
{
    const size_t bytes = (size_t)batch * swin_net_stream_floats(&net->config, end) * sizeof *out;
    return end == swin_output_count(&net->config)
               ? net->ops->download(net->dev, out, net->logits, bytes)
               : net->ops->copy(net->dev, out, stream_before(net, end), bytes);
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
    return out ? give_output(net, end, batch, out) : SWIN_OK;
}

/* The stage of a part that can be given new weights, and its place in it. */
static swin_status reloadable(int *stage, int *place, const swin_net *net, int part)
{
    const swin_config *c = &net->config;
    if (part < 1 || part + 1 >= swin_output_count(c) || net->opts.dtype != SWIN_F32 || net->planned)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "part %d of this network cannot be given new weights", part);
    *stage = place_of(c, part, place);
    return SWIN_OK;
}

swin_status swin_net_reload(swin_net *net, int part, const swin_weights *w)
{
    int stage, place;
    SWIN_TRY(reloadable(&stage, &place, net, part));
    net_drop_replays(net);
    return place < net->config.depths[stage]
               ? net_reload_block(net, stage, place, &w->stages[stage].blocks[place])
               : net_reload_merge(net, stage, &w->stages[stage]);
}

swin_status swin_net_reload_biases(swin_net *net, int part, const swin_weights *w)
{
    int stage, place;
    SWIN_TRY(reloadable(&stage, &place, net, part));
    if (place == net->config.depths[stage])
        return swin_fail(SWIN_ERR_UNSUPPORTED, "part %d of this network is no block", part);
    return net_reload_biases(net, stage, place, &w->stages[stage].blocks[place]);
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
