"""The kernels of a pass of few nodes, which takes as long as its weights take to read, if nothing stalls.

Every sum has one order, whatever else is in the pass: the products of a node do not depend on how many nodes
there are, nor its attention on which program finishes first. So the logits of a verified chain are, bit for
bit, those of decoding token by token. Those of a tree's branch are equal up to rounding, since its siblings'
rows are in the cache between its own.

Shapes: M nodes, H hidden values, N outputs and K inputs of a matrix, C rows of the cache.
"""

# Triton reads annotations as they are: no `from __future__ import annotations` here.
import triton
import triton.language as tl


@triton.jit
def embed(
    tokens,
    positions,
    token_embedding,
    position_embedding,
    hidden,
    H,
    HAS_POSITIONS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the embedding of each token, and of its position where the model has such; one program a node."""
    node = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    there = column < H
    row = tl.load(tokens + node)
    value = tl.load(token_embedding + row * H + column, mask=there, other=0.0).to(tl.float32)
    if HAS_POSITIONS:
        position = tl.load(positions + node)
        value += tl.load(position_embedding + position * H + column, mask=there, other=0.0).to(tl.float32)
    tl.store(hidden + node.to(tl.int64) * H + column, value.to(hidden.dtype.element_ty), mask=there)


@triton.jit
def normalise(
    hidden,
    added,
    weight,
    bias,
    out,
    second_weight,
    second_bias,
    second_out,
    H,
    epsilon,
    ROOT_MEAN_SQUARE: tl.constexpr,
    ADD: tl.constexpr,
    TWO: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Normalise each node's hidden values, to which `added` is added first, where there is something to ADD.

    With one weight and bias, or with TWO. One program a node.
    """
    start = tl.program_id(0).to(tl.int64) * H
    column = tl.arange(0, BLOCK)
    there = column < H
    value = tl.load(hidden + start + column, mask=there, other=0.0).to(tl.float32)
    scale = tl.load(weight + column, mask=there, other=0.0).to(tl.float32)
    shift = tl.zeros((BLOCK,), tl.float32)
    if not ROOT_MEAN_SQUARE:
        shift += tl.load(bias + column, mask=there, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(added + start + column, mask=there, other=0.0).to(tl.float32)
        rounded = value.to(hidden.dtype.element_ty)
        tl.store(hidden + start + column, rounded, mask=there)
        value = rounded.to(tl.float32)
    if not ROOT_MEAN_SQUARE:
        value = tl.where(there, value - tl.sum(value) / H, 0.0)
    value = value / tl.sqrt(tl.sum(value * value) / H + epsilon)
    tl.store(out + start + column, (value * scale + shift).to(out.dtype.element_ty), mask=there)
    if TWO:
        scale = tl.load(second_weight + column, mask=there, other=0.0).to(tl.float32)
        if not ROOT_MEAN_SQUARE:
            shift = tl.load(second_bias + column, mask=there, other=0.0).to(tl.float32)
        tl.store(second_out + start + column, (value * scale + shift).to(out.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["M"])
def multiply(
    x,
    weight,
    bias,
    out,
    partial,
    arrived,
    M,
    N,
    K,
    stride_n,
    stride_k,
    SPLITS,
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
    ADD: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Write activation(x weight' + bias), (M, N), or ADD it to what is there.

    x is (M, K), weight (N, K). GATED: weight is (2 N, K), and what the first half comes to, activated,
    multiplies what the second does. The inputs are split among SPLITS programs (split-K); the last one to
    arrive adds the partial sums, in their order.
    """
    split = tl.program_id(2)
    node = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    row = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    blocks = tl.cdiv(tl.cdiv(K, BLOCK_K), SPLITS)
    first, last = split * blocks * BLOCK_K, tl.minimum(K, (split + 1) * blocks * BLOCK_K)
    step = tl.arange(0, BLOCK_K)
    weights = weight + row.to(tl.int64)[:, None] * stride_n + step[None, :] * stride_k
    half = tl.cast(N, tl.int64) * stride_n
    inputs = x + node[None, :] * K + step[:, None]
    sums = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    others = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for start in range(first, last, BLOCK_K):
        if EVEN:
            w = tl.load(weights + start * stride_k, eviction_policy="evict_first")
            a = tl.load(inputs + start, mask=node[None, :] < M, other=0.0)
            sums = tl.dot(w, a, sums, input_precision="ieee")
            if GATED:
                w = tl.load(weights + half + start * stride_k, eviction_policy="evict_first")
                others = tl.dot(w, a, others, input_precision="ieee")
        else:
            inside = start + step < last
            mask = (row < N)[:, None] & inside[None, :]
            w = tl.load(weights + start * stride_k, mask=mask, other=0.0)
            a = tl.load(inputs + start, mask=inside[:, None] & (node[None, :] < M), other=0.0)
            sums = tl.dot(w, a, sums, input_precision="ieee")
            if GATED:
                w = tl.load(weights + half + start * stride_k, mask=mask, other=0.0)
                others = tl.dot(w, a, others, input_precision="ieee")
    there = (row[:, None] < N) & (node[None, :] < M)
    offset = node[None, :].to(tl.int64) * N + row[:, None]
    if SPLITS == 1:
        _finish(sums, others, bias, out, row, offset, there, N, ACTIVATION, GATED, ADD, HAS_BIAS)
    else:
        size = tl.cast(M, tl.int64) * N
        parts = partial + offset
        tl.store(parts + split * size, sums, mask=there)
        if GATED:
            tl.store(parts + (SPLITS + split) * size, others, mask=there)
        tl.debug_barrier()
        counter = arrived + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
        if tl.atomic_add(counter, 1, sem="acq_rel") == SPLITS - 1:
            tl.store(counter, 0)
            sums = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
            others = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
            for part in range(SPLITS):
                sums += tl.load(parts + part * size, mask=there, other=0.0, cache_modifier=".cg")
                if GATED:
                    others += tl.load(
                        parts + (SPLITS + part) * size, mask=there, other=0.0, cache_modifier=".cg"
                    )
            _finish(sums, others, bias, out, row, offset, there, N, ACTIVATION, GATED, ADD, HAS_BIAS)


@triton.jit
def _finish(
    sums,
    others,
    bias,
    out,
    row,
    offset,
    there,
    N,
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
    ADD: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    if HAS_BIAS:
        sums += tl.load(bias + row, mask=row < N, other=0.0).to(tl.float32)[:, None]
        if GATED:
            others += tl.load(bias + N + row, mask=row < N, other=0.0).to(tl.float32)[:, None]
    value = _activated(sums, ACTIVATION)
    if GATED:
        value *= others
    if ADD:
        value += tl.load(out + offset, mask=there, other=0.0).to(tl.float32)
    tl.store(out + offset, value.to(out.dtype.element_ty), mask=there)


@triton.jit
def _activated(x, ACTIVATION: tl.constexpr):
    if ACTIVATION == 0:  # as `families.Activation` numbers them
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    if ACTIVATION == 1:  # by tanh u = 1 - 2 / (exp 2u + 1)
        u = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        return x - x / (tl.exp(2.0 * u) + 1.0)
    if ACTIVATION == 2:
        return tl.maximum(x, 0.0)
    if ACTIVATION == 3:
        return x / (1.0 + tl.exp(-x))
    return x


@triton.jit(do_not_specialize=["M", "mask_words"])
def attend(
    qkv,
    out,
    keys,
    values,
    positions,
    bits,
    span,
    cosine,
    sine,
    query_norm,
    key_norm,
    partial,
    arrived,
    M,
    width,
    mask_words,
    row_stride,
    head_stride,
    query_at,
    key_at,
    value_at,
    head_offset,
    scale,
    epsilon,
    GROUP: tl.constexpr,
    HEAD: tl.constexpr,
    ROTATED: tl.constexpr,
    NORMED: tl.constexpr,
    SPLITS: tl.constexpr,
    WORD: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_R: tl.constexpr,  # divides WORD
    BLOCK_D: tl.constexpr,
):
    """Write each node's attention, (M, heads, HEAD), and its key and value into the cache.

    qkv is (M, width); the value d of head h lies at `query_at`, `key_at` or `value_at` plus
    `head_offset` h + d. `span` holds the first row that the pass writes, and the row after the last. `bits`,
    (M, mask_words), is the attention mask: bit r of a node says that it sees row r. cosine and sine are
    (positions, ROTATED).

    A program takes the GROUP of query heads that share a key/value head, of as many nodes as BLOCK_Q has room
    for, and every SPLITS-th block of rows. A program whose block has new rows computes and writes their keys
    and values; the last program to arrive reduces the partial results, in their order.
    """
    NODES: tl.constexpr = BLOCK_Q // GROUP
    head, split = tl.program_id(1), tl.program_id(2)
    slot = tl.arange(0, BLOCK_Q)
    node = tl.program_id(0) * NODES + slot // GROUP
    real = (slot < NODES * GROUP) & (node < M)
    node = tl.where(real, node, 0)
    query_head = head * GROUP + slot % GROUP
    first, end = tl.load(span), tl.load(span + 1)
    d = tl.arange(0, BLOCK_D)
    fits = real[:, None] & (d < HEAD)[None, :]
    start = qkv + node.to(tl.int64) * width + query_at + query_head * head_offset
    q = _rotated(
        tl.load(start[:, None] + d[None, :], mask=fits, other=0.0),
        start,
        real,
        tl.load(positions + node),
        cosine,
        sine,
        query_norm,
        epsilon,
        HEAD,
        ROTATED,
        NORMED,
        BLOCK_D,
    )
    row_max = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
    row_sum = tl.zeros((BLOCK_Q,), tl.float32)
    acc = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    for block in range(split, tl.cdiv(end, BLOCK_R), SPLITS):
        row = block * BLOCK_R + tl.arange(0, BLOCK_R)
        seen = tl.load(bits + node * mask_words + block * BLOCK_R // WORD, mask=real, other=0)
        new = (row >= first) & (row < end)
        source = tl.where(new, row - first, 0)
        base = qkv + source.to(tl.int64) * width + head * head_offset
        offset = head.to(tl.int64) * head_stride + row * row_stride
        old = (row < first)[:, None] & (d < HEAD)[None, :]
        fresh = new[:, None] & (d < HEAD)[None, :]
        k = tl.load(keys + offset[:, None] + d[None, :], mask=old, other=0.0)
        v = tl.load(values + offset[:, None] + d[None, :], mask=old, other=0.0)
        if block * BLOCK_R + BLOCK_R > first:
            rotated = _rotated(
                tl.load(base[:, None] + key_at + d[None, :], mask=fresh, other=0.0),
                base + key_at,
                new,
                tl.load(positions + source),
                cosine,
                sine,
                key_norm,
                epsilon,
                HEAD,
                ROTATED,
                NORMED,
                BLOCK_D,
            )
            k = tl.where(fresh, rotated, k)
            v = tl.where(fresh, tl.load(base[:, None] + value_at + d[None, :], mask=fresh, other=0.0), v)
            tl.store(keys + offset[:, None] + d[None, :], k, mask=fresh)
            tl.store(values + offset[:, None] + d[None, :], v, mask=fresh)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        visible = ((seen[:, None] >> (row % WORD)[None, :]) & 1) != 0
        scores = tl.where(visible, scores, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(scores, axis=1))
        shift = tl.where(new_max == float("-inf"), 0.0, new_max)
        probabilities = tl.exp(scores - shift[:, None])
        rescale = tl.exp(row_max - shift)
        row_sum = row_sum * rescale + tl.sum(probabilities, axis=1)
        acc = acc * rescale[:, None]
        acc = tl.dot(probabilities.to(v.dtype), v, acc, input_precision="ieee")
        row_max = new_max
    result = out + ((node.to(tl.int64) * tl.num_programs(1) + head) * GROUP + slot % GROUP)[:, None] * HEAD
    if SPLITS == 1:
        tl.store(result + d[None, :], _divided(acc, row_sum).to(out.dtype.element_ty), mask=fits)
    else:
        # A part: BLOCK_D sums of each slot, then its highest score and the sum of its
        # probabilities, in columns of their own.
        group = tl.program_id(0) * tl.num_programs(1) + head
        part_size: tl.constexpr = BLOCK_Q * (BLOCK_D + 2)
        mine = partial + (group * SPLITS + split).to(tl.int64) * part_size
        tl.store(mine + slot[:, None] * BLOCK_D + d[None, :], acc)
        tl.store(mine + BLOCK_Q * BLOCK_D + slot, row_max)
        tl.store(mine + BLOCK_Q * (BLOCK_D + 1) + slot, row_sum)
        tl.debug_barrier()
        if tl.atomic_add(arrived + group, 1, sem="acq_rel") == SPLITS - 1:
            tl.store(arrived + group, 0)
            row_max = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
            row_sum = tl.zeros((BLOCK_Q,), tl.float32)
            acc = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
            for part in range(SPLITS):
                its = partial + (group * SPLITS + part).to(tl.int64) * part_size
                its_max = tl.load(its + BLOCK_Q * BLOCK_D + slot, cache_modifier=".cg")
                its_sum = tl.load(its + BLOCK_Q * (BLOCK_D + 1) + slot, cache_modifier=".cg")
                its_acc = tl.load(its + slot[:, None] * BLOCK_D + d[None, :], cache_modifier=".cg")
                new_max = tl.maximum(row_max, its_max)
                shift = tl.where(new_max == float("-inf"), 0.0, new_max)
                rescale, its_scale = tl.exp(row_max - shift), tl.exp(its_max - shift)
                row_sum = row_sum * rescale + its_sum * its_scale
                acc = acc * rescale[:, None] + its_acc * its_scale[:, None]
                row_max = new_max
            tl.store(result + d[None, :], _divided(acc, row_sum).to(out.dtype.element_ty), mask=fits)


@triton.jit
def _divided(acc, row_sum):
    """Divide by the sum of probabilities, which is zero where a node sees nothing, as padding may."""
    return acc / tl.where(row_sum > 0, row_sum, 1.0)[:, None]


@triton.jit
def _rotated(
    head,
    start,
    real,
    position,
    cosine,
    sine,
    norm,
    epsilon,
    HEAD: tl.constexpr,
    ROTATED: tl.constexpr,
    NORMED: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Return heads, (S, BLOCK_D), as their positions turn them; the `real` ones begin at `start`, (S,)."""
    d = tl.arange(0, BLOCK_D)
    value = head.to(tl.float32)
    if NORMED:
        inverse = 1.0 / tl.sqrt(tl.sum(value * value, axis=1) / HEAD + epsilon)
        value = value * inverse[:, None] * tl.load(norm + d, mask=d < HEAD, other=0.0).to(tl.float32)[None, :]
    if ROTATED > 0:
        HALF: tl.constexpr = ROTATED // 2
        turned = real[:, None] & (d < ROTATED)[None, :]
        mate = tl.where(d < HALF, d + HALF, d - HALF)
        mate = tl.where(d < ROTATED, mate, 0)
        other = tl.load(start[:, None] + mate[None, :], mask=turned, other=0.0).to(tl.float32)
        if NORMED:
            other = other * inverse[:, None] * tl.load(norm + mate).to(tl.float32)[None, :]
        angle = position[:, None] * ROTATED + tl.where(d < ROTATED, d, 0)[None, :]
        c = tl.load(cosine + angle, mask=turned, other=1.0)
        s = tl.load(sine + angle, mask=turned, other=0.0)
        value = value * c + tl.where((d < HALF)[None, :], -other, other) * s
    return value.to(head.dtype)


@triton.jit
def top_k_of_parts(
    logits,
    positions,
    sampling,
    values,
    tokens,
    V,
    proposable,
    BRANCH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the BRANCH best of each BLOCK of a node's scores, and the terms of its softmax.

    `values` is (BRANCH + 2,) float32: the best scores, their maximum, and the sum of exp(score - maximum);
    `tokens` is (BRANCH,). Scores are logits, or where `sampling` has a temperature above 0, logits /
    temperature + the noise that its key gives each token at the position it would take.
    """
    part, node = tl.program_id(0), tl.program_id(1)
    token = part * BLOCK + tl.arange(0, BLOCK)
    own = tl.load(logits + node.to(tl.int64) * V + token, mask=token < proposable, other=float("-inf"))
    own = own.to(tl.float32)
    own = tl.where(own <= float("inf"), own, float("-inf"))  # NaN would win every maximum
    temperature = tl.load(sampling).to(tl.int32).to(tl.float32, bitcast=True)
    if temperature > 0:
        own = own / temperature + _gumbel(token, tl.load(positions + node) + 1, tl.load(sampling + 1))
    offset = node * tl.num_programs(0) + part
    maximum = tl.max(own)
    shift = tl.where(maximum == float("-inf"), 0.0, maximum)
    tl.store(values + offset * (BRANCH + 2) + BRANCH, maximum)
    tl.store(values + offset * (BRANCH + 2) + BRANCH + 1, tl.sum(tl.exp(own - shift)))
    for rank in tl.static_range(BRANCH):
        value, index = tl.max(own, axis=0, return_indices=True)
        tl.store(values + offset * (BRANCH + 2) + rank, value)
        tl.store(tokens + offset * BRANCH + rank, part * BLOCK + index)
        own = tl.where(tl.arange(0, BLOCK) == index, float("-inf"), own)


@triton.jit
def _gumbel(token, position, key):
    """Return the noise of tokens at a position: that of `sampling.gumbel_noise` up to rounding."""
    counter = token // 64 * 16 + token % 16
    zero = tl.zeros_like(counter)
    a, b, c, d = tl.philox(key, counter, zero + position.to(tl.int32), zero, zero)
    word = token // 16 % 4
    bits = tl.where(word == 0, a, tl.where(word == 1, b, tl.where(word == 2, c, d)))
    # 2**-32 and 2**-33, the largest float32 below 1, and 1/64: as in sampling.py.
    uniform = tl.minimum(bits.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10, 0.99999994)
    series = uniform * (1.0 + uniform * (0.5 + uniform * (0.3333333333 + uniform * 0.25)))
    return -tl.log(tl.where(uniform < 0.015625, series, -tl.log(1.0 - uniform)))


@triton.jit
def top_k_of_all(
    values,
    tokens,
    found,
    parts,
    BRANCH: tl.constexpr,
    BLOCK_PARTS: tl.constexpr,
    BLOCK_BRANCH: tl.constexpr,
):
    """Write the BRANCH best tokens of a node and the bits of their log-probabilities, (2, BRANCH) int32."""
    node = tl.program_id(0)
    part = tl.arange(0, BLOCK_PARTS)
    stats = values + (node * parts + part) * (BRANCH + 2)
    maxima = tl.load(stats + BRANCH, mask=part < parts, other=float("-inf"))
    sums = tl.load(stats + BRANCH + 1, mask=part < parts, other=0.0)
    maximum = tl.max(maxima)
    shift = tl.where(maximum == float("-inf"), 0.0, maximum)
    total = tl.sum(sums * tl.exp(maxima - shift))
    normaliser = shift + tl.log(tl.where(total > 0, total, 1.0))
    slot = tl.arange(0, BLOCK_PARTS * BLOCK_BRANCH)
    its_part, its_rank = slot // BLOCK_BRANCH, slot % BLOCK_BRANCH
    there = (its_part < parts) & (its_rank < BRANCH)
    offset = node * parts + its_part
    candidates = tl.load(values + offset * (BRANCH + 2) + its_rank, mask=there, other=float("-inf"))
    for rank in tl.static_range(BRANCH):
        value, index = tl.max(candidates, axis=0, return_indices=True)
        chosen = node * parts + index // BLOCK_BRANCH
        tl.store(found + node * 2 * BRANCH + rank, tl.load(tokens + chosen * BRANCH + index % BLOCK_BRANCH))
        bits = (value - normaliser).to(tl.int32, bitcast=True)
        tl.store(found + node * 2 * BRANCH + BRANCH + rank, bits)
        candidates = tl.where(slot == index, float("-inf"), candidates)
