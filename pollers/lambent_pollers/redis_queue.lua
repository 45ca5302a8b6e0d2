-- A queue, standard or FIFO, as SQS behaves: everything that is decided about its messages, each call in one step.
--
-- KEYS[1..12] are the queue's (see `open`) and, last, what is remembered of this call; KEYS[13..23] its dead-letter
-- queue's, if one step may change both. ARGV[1] is the time, ARGV[2] what to do, ARGV[3] for how many milliseconds a
-- call is remembered, so that it can be repeated when its answer was lost; what follows is the call's own.
--
-- A message is in `ready` (waiting, or delayed) or in `out` (received), until its time: nothing has to be done when
-- that comes. Scores are milliseconds; their fraction keeps the order of coming within one. A message of a FIFO queue
-- stands in the `lines` of its group too; `groups` has the time (in microseconds) from which each has something to
-- give: when its first message is due and none of it is in flight; from then on it waits for its turn.

local DEDUPLICATION = 300000 -- SQS: a deduplication id holds for five minutes
local ms, soon = math.floor(now / 1000), math.ceil(now / 1000)
local past = '(' .. string.format('%.0f', ms + 1) -- up to the end of this millisecond

-- What an answer begins with.
local DONE, UNDECLARED, AGAIN, CHANGED, KIND = 0, 1, 2, 3, 4

local function open(first)
    local found = redis.call(
        'HMGET', KEYS[first], 'config', 'fifo', 'delay', 'visibility', 'retention', 'most', 'dead', 'last', 'sleepers'
    )
    if not found[1] then
        return nil
    end
    return {
        meta = KEYS[first], bodies = KEYS[first + 1], states = KEYS[first + 2], ready = KEYS[first + 3],
        out = KEYS[first + 4], born = KEYS[first + 5], lines = KEYS[first + 6], held = KEYS[first + 7],
        groups = KEYS[first + 8], sent = KEYS[first + 9], times = KEYS[first + 10],
        config = found[1], fifo = found[2] == '1', delay = tonumber(found[3]), visibility = tonumber(found[4]),
        retention = tonumber(found[5]), most = tonumber(found[6]), dead = found[7] or '', last = tonumber(found[8]),
        sleepers = found[9],
    }
end

-- Of a message that was never received, a standard queue has no state.
local function parsed(text)
    if not text then
        return {receives = 0, receipt = 0, first = 0, number = 0, group = ''}
    end
    local receives, receipt, first, number, group = string.match(text, '^(%d+) (%d+) (%d+) (%d+) (.*)$')
    return {
        receives = tonumber(receives), receipt = tonumber(receipt), first = tonumber(first),
        number = tonumber(number), group = group,
    }
end

local function text_of(state)
    return string.format(
        '%.0f %.0f %.0f %.0f %s', state.receives, state.receipt, state.first, state.number, state.group
    )
end

local function line_of(group, number, id)
    return group .. '\0' .. string.format('%016.0f', number) .. id
end

local function range_of(group)
    return '[' .. group .. '\0', '(' .. group .. '\1'
end

-- Since when, or until when, a message waits or is out; and whether it is out.
local function due_of(queue, id)
    local out = redis.call('ZSCORE', queue.out, id)
    return tonumber(out or redis.call('ZSCORE', queue.ready, id) or 0), out ~= false
end

local function wake(queue)
    if queue.sleepers then
        queue.sleepers = false
        redis.call('HDEL', queue.meta, 'sleepers')
        redis.call('PUBLISH', queue.meta, '')
    end
end

-- These groups have changed: find out when they have something to give, and put them at the end.
local function arrange(queue, groups)
    for group in pairs(groups) do
        local from, to = range_of(group)
        local first = redis.call('ZRANGEBYLEX', queue.lines, from, to, 'LIMIT', 0, 1)[1]
        if first then
            local at = due_of(queue, string.sub(first, #group + 18))
            for _, held in ipairs(redis.call('ZRANGEBYLEX', queue.held, from, to)) do
                at = math.max(at, tonumber(redis.call('ZSCORE', queue.out, string.sub(held, #group + 2)) or 0))
            end
            redis.call('ZADD', queue.groups, math.max(now, math.floor(at) * 1000), group)
        else
            redis.call('ZREM', queue.groups, group)
        end
    end
end

local function add(queue, messages)
    local bodies, states, ready, born, lines = {}, {}, {}, {}, {}
    for _, message in ipairs(messages) do
        queue.last = queue.last + 1
        local place = queue.last % 4096 / 4096
        local id = message.id
        bodies[#bodies + 1], bodies[#bodies + 2] = id, message.body
        ready[#ready + 1], ready[#ready + 2] = message.due + place, id
        born[#born + 1], born[#born + 2] = message.born or ms + place, id
        if queue.fifo then
            local state = parsed(nil)
            state.number, state.group = queue.last, message.group
            states[#states + 1], states[#states + 2] = id, text_of(state)
            lines[#lines + 1], lines[#lines + 2] = 0, line_of(message.group, queue.last, id)
            redis.call('ZADD', queue.groups, 'NX', math.max(now, message.due * 1000), message.group)
        end
    end
    each_part('HSET', queue.bodies, bodies)
    each_part('HSET', queue.states, states)
    each_part('ZADD', queue.ready, ready)
    each_part('ZADD', queue.born, born)
    each_part('ZADD', queue.lines, lines)
    if #messages > 0 then
        redis.call('HSET', queue.meta, 'last', whole(queue.last))
        wake(queue)
    end
end

local function forget(queue, ids)
    local groups = {}
    if queue.fifo then
        local lines, held = {}, {}
        for i, text in ipairs(gather('HMGET', queue.states, ids)) do
            local state = parsed(text)
            lines[i], held[i] = line_of(state.group, state.number, ids[i]), state.group .. '\0' .. ids[i]
            groups[state.group] = true
        end
        each_part('ZREM', queue.lines, lines)
        each_part('ZREM', queue.held, held)
    end
    each_part('HDEL', queue.bodies, ids)
    each_part('HDEL', queue.states, ids)
    each_part('ZREM', queue.ready, ids)
    each_part('ZREM', queue.out, ids)
    each_part('ZREM', queue.born, ids)
    arrange(queue, groups)
end

-- Remove what is too old, within limits; true: there may be more.
local function sweep(queue)
    local horizon = '(' .. whole(ms - queue.retention + 1)
    local old = redis.call('ZRANGEBYSCORE', queue.born, '-inf', horizon, 'LIMIT', 0, STEP)
    forget(queue, old)
    return #old == STEP
end

-- Identities of what was sent in the last five minutes, or moved here not long ago.
local function forget_identities(queue)
    local old = redis.call('ZRANGEBYSCORE', queue.times, '-inf', past, 'LIMIT', 0, STEP)
    each_part('HDEL', queue.sent, old)
    each_part('ZREM', queue.times, old)
end

-- Which message was sent with this identity lately; if none was, this one is.
local function earlier(queue, identity, id, milliseconds)
    local text = redis.call('HGET', queue.sent, identity)
    if text then
        local till, before = string.match(text, '^(%d+) (.*)$')
        if tonumber(till) > ms then
            return before
        end
    end
    redis.call('HSET', queue.sent, identity, whole(ms + milliseconds) .. ' ' .. id)
    redis.call('ZADD', queue.times, ms + milliseconds, identity)
end

-- The ids of what is visible, in their order, with their scores; of a FIFO queue the first ones of one group.
local function visible(queue, limit)
    if queue.fifo then
        local group = redis.call('ZRANGEBYSCORE', queue.groups, '-inf', whole(now), 'LIMIT', 0, 1)[1]
        local ids, scores = {}, {}
        if group then
            local from, to = range_of(group)
            for _, line in ipairs(redis.call('ZRANGEBYLEX', queue.lines, from, to, 'LIMIT', 0, limit)) do
                local id = string.sub(line, #group + 18)
                local due = due_of(queue, id)
                if math.floor(due) > ms then
                    break
                end
                ids[#ids + 1], scores[#scores + 1] = id, due
            end
        end
        return ids, scores, group
    end
    local back = redis.call('ZRANGEBYSCORE', queue.out, '-inf', past, 'WITHSCORES', 'LIMIT', 0, limit)
    local ready = redis.call('ZRANGEBYSCORE', queue.ready, '-inf', past, 'WITHSCORES', 'LIMIT', 0, limit)
    local ids, scores, i, j = {}, {}, 1, 1
    while #ids < limit and (back[i] or ready[j]) do
        if back[i] and not (ready[j] and tonumber(ready[j + 1]) < tonumber(back[i + 1])) then
            ids[#ids + 1], scores[#scores + 1] = back[i], tonumber(back[i + 1])
            i = i + 2
        else
            ids[#ids + 1], scores[#scores + 1] = ready[j], tonumber(ready[j + 1])
            j = j + 2
        end
    end
    return ids, scores
end

-- A message as an answer has it.
local function tell(told, id, state, born, body)
    local size = #told
    told[size + 1], told[size + 2], told[size + 3], told[size + 4] = id, state.receipt, state.receives, state.first
    told[size + 5], told[size + 6], told[size + 7] = state.number, math.floor(tonumber(born) or 0), body
end

-- Hand out these, which are visible. Never until this very moment, or one call would give a message twice.
local function give(queue, ids, scores, states, told)
    local till = math.max(soon + queue.visibility, ms + 1)
    local born, bodies = gather('ZMSCORE', queue.born, ids), gather('HMGET', queue.bodies, ids)
    local out, changed, held = {}, {}, {}
    for i, id in ipairs(ids) do
        local state = states[i]
        state.receives, state.receipt = state.receives + 1, state.receipt + 1
        state.first = state.first > 0 and state.first or ms
        out[#out + 1], out[#out + 2] = till + scores[i] % 1, id
        changed[#changed + 1], changed[#changed + 2] = id, text_of(state)
        held[#held + 1], held[#held + 2] = 0, state.group .. '\0' .. id
        tell(told, id, state, born[i], bodies[i])
    end
    each_part('ZREM', queue.ready, ids)
    each_part('ZADD', queue.out, out)
    each_part('HSET', queue.states, changed)
    if queue.fifo then
        each_part('ZADD', queue.held, held)
    end
end

-- Move what was received too often. In a standard queue its age moves with it, in a FIFO queue it begins anew (SQS
-- guide).
local function bury(queue, dead, ids, states)
    local bodies, born = gather('HMGET', queue.bodies, ids), gather('ZMSCORE', queue.born, ids)
    local moved = {}
    for i, id in ipairs(ids) do
        moved[i] = {
            id = id, body = bodies[i], due = ms, born = not dead.fifo and tonumber(born[i]) or nil,
            group = states[i].group,
        }
    end
    forget(queue, ids)
    add(dead, moved)
end

-- When the next message is visible if nothing happens: in how many microseconds; -1: never.
local function next_in(queue)
    if queue.fifo then
        local first = redis.call('ZRANGE', queue.groups, 0, 0, 'WITHSCORES')
        return first[2] and math.max(tonumber(first[2]) - now, 0) or -1
    end
    local first = -1
    for _, key in ipairs({queue.ready, queue.out}) do
        local found = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
        if found[2] then
            local wait = math.max(math.floor(tonumber(found[2])) * 1000 - now, 0)
            first = first < 0 and wait or math.min(first, wait)
        end
    end
    return first
end

-- What an earlier try of this very call gave, if that is still out.
local function given_before(queue)
    local remembered = redis.call('GET', KEYS[12])
    if not remembered then
        return nil
    end
    local told = {}
    for id, receipt in string.gmatch(remembered, '(%S+) (%d+)') do
        local state = parsed(redis.call('HGET', queue.states, id))
        if state.receipt == tonumber(receipt) then
            tell(told, id, state, redis.call('ZSCORE', queue.born, id), redis.call('HGET', queue.bodies, id))
        end
    end
    return told
end

local function remember(told)
    local words = {}
    for i = 1, #told, 7 do
        words[#words + 1] = told[i] .. ' ' .. told[i + 1]
    end
    if #words > 0 then
        redis.call('SET', KEYS[12], table.concat(words, ' '), 'PX', ARGV[3])
    end
end

local calls = {}

-- ARGV[4..]: fifo, delay, visibility, retention, most, dead, config; ARGV[11]: only if nobody has declared it.
function calls.declare()
    local queue = open(1)
    if queue and ARGV[11] == '1' then
        return {DONE, queue.config}
    end
    if queue and queue.config == ARGV[10] then
        return {DONE, queue.config}
    end
    if queue and queue.fifo ~= (ARGV[4] == '1') then
        repeat
            local more = sweep(queue)
        until not more
        if redis.call('EXISTS', queue.bodies) == 1 then
            return {KIND, queue.config}
        end
        redis.call('DEL', queue.lines, queue.held, queue.groups, queue.sent, queue.times)
    end
    redis.call(
        'HSET', KEYS[1], 'config', ARGV[10], 'fifo', ARGV[4], 'delay', ARGV[5], 'visibility', ARGV[6],
        'retention', ARGV[7], 'most', ARGV[8], 'dead', ARGV[9]
    )
    redis.call('HSETNX', KEYS[1], 'last', '0')
    if queue then
        wake(queue)
    else
        redis.call('PUBLISH', KEYS[1], '') -- somebody may wait for what was here before its keys were deleted
    end
    return {DONE, ARGV[10]}
end

-- ARGV[4..]: id, delay (milliseconds; none: the queue's), group, identity, body; and again.
function calls.send()
    local queue = open(1)
    if not queue then
        return {UNDECLARED}
    end
    sweep(queue)
    if queue.fifo then
        forget_identities(queue)
    elseif not redis.call('SET', KEYS[12], '', 'NX', 'PX', ARGV[3]) then
        return {DONE} -- it is a repetition
    end
    local stored, fresh = {DONE}, {}
    for i = 4, #ARGV, 5 do
        local id, delay = ARGV[i], tonumber(ARGV[i + 1]) or queue.delay
        local before = queue.fifo and earlier(queue, ARGV[i + 3], id, DEDUPLICATION)
        if not before then
            fresh[#fresh + 1] = {
                id = id, due = delay > 0 and soon + delay or ms, group = ARGV[i + 2], body = ARGV[i + 4]
            }
        end
        stored[#stored + 1] = before or id
    end
    add(queue, fresh)
    return stored
end

-- ARGV[4..]: how many, whether the caller waits if there is none, the name of the dead-letter queue.
function calls.receive()
    local queue = open(1)
    if not queue then
        return {UNDECLARED}
    end
    local limit, dead = tonumber(ARGV[4]), nil
    if queue.most then
        if queue.dead ~= ARGV[6] then
            return {CHANGED, queue.config}
        end
        if #KEYS > 12 then
            dead = open(13)
            if not dead then
                return {UNDECLARED}
            end
        end
    end
    local told = given_before(queue)
    if told and #told > 0 then
        return {DONE, next_in(queue), told, {}}
    end
    if sweep(queue) then
        return {AGAIN}
    end
    told = {}
    local moving, taken, moved = {}, 0, 0
    while taken < limit and moved < STEP do
        local ids, scores, group = visible(queue, limit - taken)
        local states, good, spent = {}, {}, {ids = {}, states = {}, scores = {}}
        for i, text in ipairs(gather('HMGET', queue.states, ids)) do
            states[i] = parsed(text)
            if queue.most and states[i].receives >= queue.most then
                spent.ids[#spent.ids + 1] = ids[i]
                spent.states[#spent.states + 1], spent.scores[#spent.scores + 1] = states[i], scores[i]
            end
        end
        if #ids == 0 then
            moved = STEP
        elseif #spent.ids == 0 then
            give(queue, ids, scores, states, told)
            taken = taken + #ids
        elseif dead then
            bury(queue, dead, spent.ids, spent.states) -- and look again: others are in their places
            moved = moved + #spent.ids
        else
            give(queue, spent.ids, spent.scores, spent.states, moving)
            taken = taken + #spent.ids
        end
        if group then
            arrange(queue, {[group] = true})
        elseif #spent.ids == 0 then
            break
        end
    end
    remember(told)
    if #told == 0 and #moving == 0 and ARGV[5] == '1' and not queue.sleepers then
        redis.call('HSET', queue.meta, 'sleepers', '1')
    end
    return {DONE, next_in(queue), told, moving}
end

-- ARGV[4..]: ids.
function calls.claim()
    local queue = open(1)
    if not queue then
        return {UNDECLARED}
    end
    while sweep(queue) do end
    local told = given_before(queue) or {}
    if #told > 0 then
        return {DONE, next_in(queue), told, {}}
    end
    for i = 4, #ARGV do
        local id = ARGV[i]
        local state = parsed(redis.call('HGET', queue.states, id))
        local due = due_of(queue, id)
        local can = due > 0 and math.floor(due) <= ms
        if can and queue.fifo then
            can = tonumber(redis.call('ZSCORE', queue.groups, state.group) or now + 1) <= now
        end
        if can then
            give(queue, {id}, {due}, {state}, told)
            if queue.fifo then
                arrange(queue, {[state.group] = true})
            end
        end
    end
    remember(told)
    return {DONE, next_in(queue), told, {}}
end

-- ARGV[4..]: id, number of the receipt, delay (milliseconds; none: delete), whether it is given back; and again.
function calls.settle()
    local queue = open(1)
    if not queue then
        return {UNDECLARED}
    end
    local answers = redis.call('GET', KEYS[12])
    if answers then
        return {DONE, answers}
    end
    sweep(queue)
    local ids, states, answered, deleted, groups = {}, {}, {}, {}, {}
    for i = 4, #ARGV, 4 do
        ids[#ids + 1] = ARGV[i]
    end
    for i, text in ipairs(gather('HMGET', queue.states, ids)) do
        states[ids[i]] = text and parsed(text) or nil
    end
    for i = 4, #ARGV, 4 do
        local id, delay = ARGV[i], tonumber(ARGV[i + 2])
        local state = states[id]
        local counts = state and state.receipt == tonumber(ARGV[i + 1]) and state.receipt > 0
        if counts and delay then
            local due, out = due_of(queue, id)
            counts = out and math.floor(due) > ms
            if counts then
                redis.call('ZADD', queue.out, (delay > 0 and soon + delay or ms) + due % 1, id)
                if ARGV[i + 3] == '1' then
                    state.first = state.receives > 1 and state.first or 0
                    state.receives, state.receipt = state.receives - 1, state.receipt + 1
                    redis.call('HSET', queue.states, id, text_of(state))
                end
                groups[state.group] = true
            end
        elseif counts then
            deleted[#deleted + 1], states[id] = id, nil
        end
        answered[#answered + 1] = counts and '1' or '0'
    end
    forget(queue, deleted)
    if queue.fifo then
        arrange(queue, groups)
    end
    if queue.fifo or next(groups) then
        wake(queue)
    end
    answers = table.concat(answered)
    redis.call('SET', KEYS[12], answers, 'PX', ARGV[3])
    return {DONE, answers}
end

-- Take in what another queue gives up whose keys are in another slot. ARGV[4..]: id, born, group, body; and again.
function calls.take()
    local queue = open(1)
    if not queue then
        return {UNDECLARED}
    end
    sweep(queue)
    forget_identities(queue)
    local moved = {}
    for i = 4, #ARGV, 4 do
        if not earlier(queue, 'moved ' .. ARGV[i], ARGV[i], tonumber(ARGV[3])) then
            moved[#moved + 1] = {
                id = ARGV[i], body = ARGV[i + 3], due = ms, group = ARGV[i + 2],
                born = not queue.fifo and tonumber(ARGV[i + 1]) or nil,
            }
        end
    end
    add(queue, moved)
    return {DONE}
end

function calls.depth()
    local queue = open(1)
    if not queue then
        return {UNDECLARED}
    end
    if sweep(queue) then
        return {AGAIN}
    end
    local after = whole(ms + 1)
    local visible = redis.call('ZCOUNT', queue.ready, '-inf', past) + redis.call('ZCOUNT', queue.out, '-inf', past)
    local in_flight = redis.call('ZCOUNT', queue.out, after, '+inf')
    return {DONE, visible, in_flight, redis.call('ZCOUNT', queue.ready, after, '+inf')}
end

-- ARGV[4..]: how many at most, and the id before them; or no number, and the id of one.
function calls.look()
    local queue = open(1)
    if not queue then
        return {UNDECLARED}
    end
    if sweep(queue) then
        return {AGAIN}
    end
    local limit, ids = tonumber(ARGV[4]), {ARGV[5]}
    if limit then
        local rank = ARGV[5] == '' and -1 or redis.call('ZRANK', queue.born, ARGV[5])
        ids = rank and limit > 0 and redis.call('ZRANGE', queue.born, rank + 1, rank + limit) or {}
    end
    local told = {}
    for _, id in ipairs(ids) do
        local born = redis.call('ZSCORE', queue.born, id)
        if born then
            local due, out = due_of(queue, id)
            local wait = math.max(math.floor(due) * 1000 - now, 0)
            tell(told, id, parsed(redis.call('HGET', queue.states, id)), born, redis.call('HGET', queue.bodies, id))
            told[#told + 1], told[#told + 2] = out and 1 or 0, wait
        end
    end
    return {DONE, ms, told}
end

-- ARGV[4..]: ids of messages that cannot be read; KEYS[13] keeps what is left of them for people.
function calls.set_aside()
    local queue = open(1)
    if not queue then
        return {UNDECLARED}
    end
    for i = 4, #ARGV do
        local body = redis.call('HGET', queue.bodies, ARGV[i])
        if body then
            redis.call('HSET', KEYS[13], ARGV[i], body)
        end
        forget(queue, {ARGV[i]})
    end
    return {DONE}
end

function calls.purge()
    local queue = open(1)
    if queue then
        redis.call(
            'UNLINK', queue.bodies, queue.states, queue.ready, queue.out, queue.born, queue.lines, queue.held,
            queue.groups
        )
    end
    return {DONE}
end

return calls[ARGV[2]]()
