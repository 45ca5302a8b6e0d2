-- What scripts need to say much to the server at once. It stands before each of them.

local STEP = 1000 -- words that are passed at once (Lua's stack holds 8,000), or items that one call moves by the way

local function whole(number)
    return string.format('%.0f', number)
end

-- The arguments from this one on.
local function words_from(first)
    local words = {}
    for i = first, #ARGV do
        words[#words + 1] = ARGV[i]
    end
    return words
end

local function each_part(command, key, words)
    for first = 1, #words, STEP do
        redis.call(command, key, unpack(words, first, math.min(first + STEP - 1, #words)))
    end
end

local function gather(command, key, names)
    if #names <= STEP then
        return #names > 0 and redis.call(command, key, unpack(names)) or {}
    end
    local all = {}
    for first = 1, #names, STEP do
        for _, each in ipairs(redis.call(command, key, unpack(names, first, math.min(first + STEP - 1, #names)))) do
            all[#all + 1] = each
        end
    end
    return all
end

