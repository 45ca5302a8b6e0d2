-- The queue of asynchronous events: what is claimed, until when, and what became of it, each call in one step.
--
-- KEYS: see below; the last is the call's name. ARGV: the time, what to do, for how many milliseconds a named call is
-- remembered, and its own.
--
-- An event is in `lines`, where it can be claimed, or in `timers` until the time (microseconds) at which its claim ends
-- or its release falls due; while it is claimed, `claims` has the engine that claimed it. `lines` is one sorted set for
-- all functions: a member is the function, a zero byte, when the event was accepted, in which place it was put, and its
-- id; so each function's events stand together, oldest first. The bell rings when a function has something after it had
-- nothing. A receipt counts until its event is claimed again, released or deleted.

local lines, timers, states, bodies, counts = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local last, ended, endings, totals, claims, call = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local ENDED = 10000 -- how many ended events can still be asked for

-- number: of the receipt, 0: none; place: in which it was put.
local function parsed(text)
    local number, attempts, deferrals, accepted, place, of, reason = string.match(
        text, '^(%d+) (%d+) (%d+) (%d+) (%d+) ([^\n]*)\n(.*)$'
    )
    return {
        number = tonumber(number), attempts = tonumber(attempts), deferrals = tonumber(deferrals),
        accepted = tonumber(accepted), place = tonumber(place), of = of, reason = reason,
    }
end

local function text_of(state)
    return string.format(
        '%.0f %.0f %.0f %.0f %.0f %s\n%s', state.number, state.attempts, state.deferrals, state.accepted, state.place,
        state.of, state.reason
    )
end

local function member(state, id)
    return state.of .. '\0' .. string.format('%016.0f%016.0f', state.accepted, state.place) .. id
end

local function id_in(line, of)
    return string.sub(line, #of + 34)
end

-- When the oldest event of a function was accepted that can be claimed; and its member.
local function oldest(of)
    local line = redis.call('ZRANGEBYLEX', lines, '[' .. of .. '\0', '(' .. of .. '\1', 'LIMIT', 0, 1)[1]
    return line and string.sub(line, #of + 2, #of + 17), line
end

-- They can be claimed.
local function show(ids, known)
    local words, had, rings = {}, {}, false
    for i, id in ipairs(ids) do
        local state = known[i]
        if had[state.of] == nil then
            had[state.of] = oldest(state.of) ~= nil
            rings = rings or not had[state.of]
        end
        words[#words + 1], words[#words + 2] = 0, member(state, id)
    end
    each_part('ZADD', lines, words)
    if rings then
        redis.call('PUBLISH', lines, '')
    end
end

-- The states of these events; false: there is none.
local function states_of(ids)
    local found = gather('HMGET', states, ids)
    for i, text in ipairs(found) do
        found[i] = text and parsed(text)
    end
    return found
end

-- They wait for nothing, and nobody has them.
local function free(ids)
    each_part('ZREM', timers, ids)
    each_part('HDEL', claims, ids)
end

-- What these wait for is over: they can be claimed.
local function bring_back(due)
    local ids, known = {}, {}
    for i, state in ipairs(states_of(due)) do
        if state then
            ids[#ids + 1], known[#known + 1] = due[i], state
        end
    end
    show(ids, known)
    free(due)
end

-- What fell due can be claimed again: as much as one call may do by the way.
local function surface()
    bring_back(redis.call('ZRANGEBYSCORE', timers, '-inf', whole(now), 'LIMIT', 0, STEP))
end

local function count(of, number)
    if redis.call('HINCRBY', counts, of, number) <= 0 then
        redis.call('HDEL', counts, of)
    end
end

-- What the claim of this name got, and still has; nothing: it was not made.
local function claimed()
    local ids, known, told = {}, {}, redis.call('GET', call)
    for id, number in string.gmatch(told or '', '(%S+) (%d+)\n') do
        local text = redis.call('HGET', states, id)
        local state = text and parsed(text)
        if state and state.number == tonumber(number) and redis.call('ZSCORE', timers, id) then
            ids[#ids + 1], known[#known + 1] = id, state
        end
    end
    return told and ids, known
end

local calls = {}

-- ARGV[4..]: id, when it was accepted (microseconds), function, body; and again.
function calls.put()
    if redis.call('EXISTS', call) == 1 then
        return
    end
    local ids = {}
    for i = 4, #ARGV, 4 do
        ids[#ids + 1] = ARGV[i]
    end
    local here, fresh, known, kept, texts, number = {}, {}, {}, {}, {}, {}
    local place = tonumber(redis.call('INCRBY', last, #ids)) - #ids
    for i, text in ipairs(gather('HMGET', states, ids)) do
        local id, at = ids[i], 4 * i
        if not text and not here[id] then
            here[id] = true
            local state = {
                number = 0, attempts = 0, deferrals = 0, accepted = tonumber(ARGV[at + 1]), place = place + i,
                of = ARGV[at + 2], reason = '',
            }
            fresh[#fresh + 1], known[#known + 1] = id, state
            texts[#texts + 1], texts[#texts + 2] = id, text_of(state)
            kept[#kept + 1], kept[#kept + 2] = id, ARGV[at + 3]
            number[state.of] = (number[state.of] or 0) + 1
        end
    end
    each_part('HSET', bodies, kept)
    each_part('HSET', states, texts)
    show(fresh, known)
    for of, more in pairs(number) do
        count(of, more)
    end
    redis.call('SET', call, '', 'PX', ARGV[3])
end

-- The answer is in how many microseconds something falls due (-1: nothing will), and each function that has something
-- to claim, with when its oldest was accepted.
function calls.due()
    surface()
    local next_one = redis.call('ZRANGE', timers, 0, 0, 'WITHSCORES')[2]
    local told = {next_one and math.max(0, tonumber(next_one) - now) or -1}
    local from = '-'
    while true do
        local line = redis.call('ZRANGEBYLEX', lines, from, '+', 'LIMIT', 0, 1)[1]
        if not line then
            return told
        end
        local of = string.sub(line, 1, string.find(line, '\0', 1, true) - 1)
        told[#told + 1], told[#told + 2] = of, string.sub(line, #of + 2, #of + 17)
        from = '[' .. of .. '\1'
    end
end

-- ARGV[4..]: who claims, function, how many at most, for how many microseconds, and accepted before when (or nothing).
-- The answer is when the oldest that is left was accepted (or nothing), and of each its id, receipt, attempts, deferrals
-- and body.
function calls.claim()
    local owner, of, limit = ARGV[4], ARGV[5], tonumber(ARGV[6])
    local till, before = math.max(now + ARGV[7], now + 1), tonumber(ARGV[8])
    surface()
    local ids, known = claimed()
    if not ids then
        ids = {}
        local found = redis.call('ZRANGEBYLEX', lines, '[' .. of .. '\0', '(' .. of .. '\1', 'LIMIT', 0, limit)
        local gone, timed, texts, names, owned = {}, {}, {}, {}, {}
        for i, line in ipairs(found) do
            if before and tonumber(string.sub(line, #of + 2, #of + 17)) >= before then
                break
            end
            gone[i], ids[i] = line, id_in(line, of)
        end
        if #ids > 0 then
            local number = tonumber(redis.call('INCRBY', last, #ids)) - #ids
            known = states_of(ids)
            for i, id in ipairs(ids) do
                local state = known[i]
                state.number, state.attempts = number + i, state.attempts + 1
                timed[#timed + 1], timed[#timed + 2] = whole(till), id
                texts[#texts + 1], texts[#texts + 2] = id, text_of(state)
                names[i] = id .. ' ' .. whole(state.number) .. '\n'
                owned[#owned + 1], owned[#owned + 2] = id, owner
            end
            each_part('ZREM', lines, gone)
            each_part('ZADD', timers, timed)
            each_part('HSET', claims, owned)
            each_part('HSET', states, texts)
        end
        if #ids > 0 then
            redis.call('SET', call, table.concat(names), 'PX', ARGV[3])
        end
    end
    local answer = {oldest(of) or ''}
    for i, body in ipairs(gather('HMGET', bodies, ids)) do
        local state, size = known[i], #answer
        answer[size + 1], answer[size + 2], answer[size + 3] = ids[i], whole(state.number), state.attempts
        answer[size + 4], answer[size + 5] = state.deferrals, body
    end
    return answer
end

-- ARGV[4..]: id, number of the receipt, delay (microseconds; none: delete), whether it was no attempt, reason, state,
-- result; and again. The answer has a 1 for each that was done.
function calls.settle()
    local told = redis.call('GET', call)
    if told then
        return told
    end
    surface()
    local ids, at, answers, over = {}, {}, {}, {}
    for i = 4, #ARGV, 7 do
        ids[#ids + 1] = ARGV[i]
    end
    for i, state in ipairs(states_of(ids)) do
        at[ids[i]] = state or nil
    end
    local texts, timed, freed, records, order, shown, shown_states = {}, {}, {}, {}, {}, {}, {}
    local fewer, more, gone = {}, {}, {}
    for i = 4, #ARGV, 7 do
        local id, delay, reason = ARGV[i], tonumber(ARGV[i + 2]), ARGV[i + 4]
        local state, no_attempt = at[id], ARGV[i + 3] == '1' and 1 or 0
        local counts_still = state and state.number > 0 and state.number == tonumber(ARGV[i + 1])
        local out = counts_still and redis.call('ZSCORE', timers, id)
        if counts_still and not delay then
            over[#over + 1], at[id] = id, nil
            if not out then
                gone[#gone + 1] = member(state, id)
            end
            freed[#freed + 1] = id
            local body = redis.call('HGET', bodies, id) or ''
            local head = string.sub(body, 9, (string.find(body, '\n', 1, true) or 0) - 1)
            local ending = ARGV[i + 5]
            reason = reason ~= '' and reason or state.reason
            records[#records + 1], records[#records + 2] = id, string.format(
                '%.0f %.0f %d %d %d\n', now, state.attempts - no_attempt, #ending, #reason, #head
            ) .. ending .. reason .. head .. ARGV[i + 6]
            order[#order + 1], order[#order + 2] = whole(now), id
            fewer[state.of] = (fewer[state.of] or 0) + 1
            local total = state.of .. '\0' .. ending
            more[total] = (more[total] or 0) + 1
        elseif out and delay then
            state.attempts = state.attempts - no_attempt
            state.deferrals = no_attempt == 1 and state.deferrals + 1 or 0
            state.number, state.reason = 0, reason
            texts[#texts + 1], texts[#texts + 2] = id, text_of(state)
            freed[#freed + 1] = id
            if delay > 0 then
                timed[#timed + 1], timed[#timed + 2] = whole(now + delay), id
            else
                shown[#shown + 1], shown_states[#shown_states + 1] = id, state
            end
        else
            out = nil
            counts_still = false
        end
        answers[#answers + 1] = counts_still and '1' or '0'
    end
    each_part('HSET', ended, records)
    each_part('ZADD', endings, order)
    each_part('HDEL', states, over)
    each_part('HDEL', bodies, over)
    free(freed)
    each_part('ZREM', lines, gone)
    each_part('HSET', states, texts)
    each_part('ZADD', timers, timed)
    show(shown, shown_states)
    for of, number in pairs(fewer) do
        count(of, -number)
    end
    for total, number in pairs(more) do
        redis.call('HINCRBY', totals, total, number)
    end
    local excess = #over > 0 and redis.call('ZCARD', endings) - ENDED or 0
    if excess > 0 then
        local old = redis.call('ZRANGE', endings, 0, excess - 1)
        each_part('HDEL', ended, old)
        each_part('ZREM', endings, old)
    end
    local answer = table.concat(answers)
    redis.call('SET', call, answer, 'PX', ARGV[3])
    return answer
end

-- Nobody heard the answer of the claim of this name: what it got is given back, and if it comes yet it gets nothing.
function calls.unclaim()
    local ids, known = claimed()
    local texts = {}
    for i, id in ipairs(ids or {}) do
        known[i].number, known[i].attempts = 0, known[i].attempts - 1
        texts[#texts + 1], texts[#texts + 2] = id, text_of(known[i])
    end
    free(ids or {})
    each_part('HSET', states, texts)
    show(ids or {}, known)
    redis.call('SET', call, '', 'PX', ARGV[3])
end

-- As if the time of these claims were over. ARGV[4..]: id, number of the receipt; and again.
function calls.expire()
    local ids, found = {}, {}
    for i = 4, #ARGV, 2 do
        ids[#ids + 1] = ARGV[i]
    end
    for i, state in ipairs(states_of(ids)) do
        if state and state.number == tonumber(ARGV[2 * i + 3]) and redis.call('ZSCORE', timers, ids[i]) then
            found[#found + 1] = ids[i]
        end
    end
    bring_back(found)
end

-- ARGV[4..]: engines. The answer is who else has something claimed.
function calls.others()
    local known, told = {}, {}
    for _, owner in ipairs(words_from(4)) do
        known[owner] = true
    end
    for _, owner in ipairs(redis.call('HVALS', claims)) do
        if not known[owner] then
            known[owner], told[#told + 1] = true, owner
        end
    end
    return told
end

-- As if the time of all that these engines claimed were over. ARGV[4..]: their names.
function calls.bury()
    local dead, found, all = {}, {}, redis.call('HGETALL', claims)
    for _, owner in ipairs(words_from(4)) do
        dead[owner] = true
    end
    for i = 1, #all, 2 do
        if dead[all[i + 1]] then
            found[#found + 1] = all[i]
        end
    end
    bring_back(found)
end

-- ARGV[4]: id. The time; and of an event that is not over its state, body and when its time is over; or how it ended.
function calls.look()
    local id = ARGV[4]
    return {
        whole(now), redis.call('HGET', states, id), redis.call('HGET', bodies, id), redis.call('ZSCORE', timers, id),
        redis.call('HGET', ended, id),
    }
end

-- ARGV[4..]: ids of events that cannot be read; KEYS[12] keeps what is left of them for people.
function calls.set_aside()
    for i = 4, #ARGV do
        local id = ARGV[i]
        local text, body = redis.call('HGET', states, id), redis.call('HGET', bodies, id)
        if text then
            local state = parsed(text)
            redis.call('HSET', KEYS[12], id, body or '')
            redis.call('HDEL', states, id)
            redis.call('HDEL', bodies, id)
            free({id})
            redis.call('ZREM', lines, member(state, id))
            count(state.of, -1)
        end
    end
end

return calls[ARGV[2]]()
